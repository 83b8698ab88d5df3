// What ranks exchange: the formula of docs/parallel.md, byte for byte.
#include "model/ranks.h"

#include <gtest/gtest.h>

#include <thread>

#include "golden.h"
#include "model/batch_message.h"
#include "model/worker.h"
#include "parallel/thread_ranks.h"
#include "rank_zero.h"

namespace nanovllm {
namespace {

// `tokens` of one sequence in one step, logits of the last `rows`.
Batch one_step(int32_t tokens, int32_t rows) {
  Batch batch;
  batch.block_size = 64;
  batch.block_table_stride = 1;
  batch.block_tables = {0};
  for (int32_t i = 0; i < tokens; ++i) {
    batch.token_ids.push_back(3 + i);
    batch.positions.push_back(i);
    batch.slot_mapping.push_back(i);
    if (i >= tokens - rows) batch.logits_rows.push_back(i);
  }
  batch.query_start = {0, tokens};
  batch.context_lens = {tokens};
  return batch;
}

TEST(RanksExchange, WhatTheFormulaSays) {
  for (const char* name : {"qwen3", "llama-gqa"})
    for (const int size : {2, 3, 4}) {
      EngineConfig config;
      config.model = tiny_folder(name).string();
      config.tensor_parallel_size = size;
      config.block_size = 64;
      config.max_num_batched_tokens = 64;
      config.max_num_seqs = 8;
      config.kv_cache_memory_bytes = 1 << 20;
      config.threads = size;
      config.device = "cpu";
      ThreadRanks ranks(size, 1);
      std::vector<std::jthread> workers;
      for (int r = 1; r < size; ++r)
        workers.emplace_back([&, r] { run_worker(config, ranks.rank(r)); });
      {
        Communicator& mine = ranks.rank(0);
        const RankZero zero(config, mine, 1);
        const auto exchanged = [&] {  // the others stand in their next broadcast, or go there
          int64_t bytes = 0;
          for (int r = 0; r < size; ++r) bytes += ranks.rank(r).bytes_received();
          return bytes;
        };
        const ModelConfig& c = zero.checkpoint->config();
        const int64_t others = size - 1;
        const int64_t vocab_of_0 =
            make_shards(c, cut_blocks(*zero.checkpoint), size)[0].vocab.size();
        for (const auto& [tokens, rows] : {std::pair{1, 1}, {17, 1}, {40, 3}}) {
          const Batch batch = one_step(tokens, rows);
          const int64_t before = exchanged();
          ASSERT_TRUE(zero.runner->run(batch, nullptr));
          zero.runner->logits(batch.logits_rows);
          EXPECT_EQ(exchanged() - before,
                    others * batch_message_bytes(batch) +
                        8 * others * tokens * c.hidden_size * (2 * c.num_layers + 1) +
                        4 * rows * (c.vocab_size - vocab_of_0))
              << name << ", " << size << " ranks, " << tokens << " tokens, " << rows << " rows";
        }
      }
    }
}

}  // namespace
}  // namespace nanovllm
