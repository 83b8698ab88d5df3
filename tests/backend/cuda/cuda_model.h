// A transformer on a backend, for tests: runs batches, and decodes a few sequences.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda_test_util.h"
#include "model/checkpoint.h"
#include "model/transformer.h"

namespace nanovllm {

inline constexpr int64_t kTokens = 128, kPositions = 320, kBlockSize = 16, kSeqs = 12;

// A transformer on a backend, and the logits of its last batch.
struct Model {
  Model(const std::string& folder, std::unique_ptr<Backend> on, bool float32)
      : Model(folder, std::move(on), float32 ? WeightType::kFloat32 : WeightType::kAsStored) {}
  Model(const std::string& folder, std::unique_ptr<Backend> on, WeightType type)
      : backend(std::move(on)), checkpoint(Checkpoint::open(folder)) {
    const bool float32 = type == WeightType::kFloat32;
    const ModelConfig& c = checkpoint->config();
    transformer = std::make_unique<Transformer>(
        *checkpoint, *backend, single, make_shards(c, {}, 1)[0], type, kTokens, kPositions);
    backend->allocate_kv_cache({c.num_layers, kPositions / kBlockSize + 1, kBlockSize,
                                c.num_kv_heads, c.head_dim,
                                float32 ? KVType::kFloat32 : KVType::kBFloat16});
    logits_buffer = backend->allocate(backend->max_logits_rows() * c.vocab_size);
    backend->reserve({.max_tokens = kTokens,
                      .max_seqs = kSeqs,
                      .max_blocks = kPositions / kBlockSize + 1,
                      .max_position = kPositions,
                      .vocab_size = c.vocab_size});
  }
  void run(const Batch& batch) {
    backend->run(batch, [&](const Batch& b) { return transformer->forward(b); });
    rows = batch.logits_rows;
  }
  std::span<const float> logits(int32_t row) { return logits(row, 1); }
  std::span<const float> logits(int32_t first, int32_t count) {
    transformer->compute_logits(rows.subspan(first, count), logits_buffer);
    return backend->to_host(logits_buffer, count * checkpoint->config().vocab_size);
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Checkpoint> checkpoint;
  SingleRank single;
  std::unique_ptr<Transformer> transformer;
  float* logits_buffer;
  std::span<const int32_t> rows;  // of the last batch
};

// Greedy decoding of a few sequences that end one after the other, so that batches of several sizes
// are padded; their blocks fill the cache, so that a write of a padded sequence would be read by
// another. All logits.
inline std::vector<float> decode_some(Model& model, int32_t max_steps) {
  const ModelConfig& c = model.checkpoint->config();
  const int32_t lengths[] = {20, 20, 18, 18, 18, 9, 7, 5, 4, 2, 1};  // tokens after the prompt
  const int32_t blocks_each = 2;                                     // 32 positions
  model.backend->allocate_kv_cache({c.num_layers, std::ssize(lengths) * blocks_each, kBlockSize,
                                    c.num_kv_heads, c.head_dim, KVType::kBFloat16});
  std::vector<float> all;
  std::vector<int32_t> next(std::size(lengths));
  for (int32_t step = 0; step <= max_steps; ++step) {
    Batch batch;
    batch.block_size = kBlockSize;
    batch.block_table_stride = blocks_each;
    batch.query_start = {0};
    std::vector<size_t> members;
    for (size_t s = 0; s < std::size(lengths); ++s) {
      if (step > lengths[s]) continue;
      members.push_back(s);
      const int32_t first_block = static_cast<int32_t>(s) * blocks_each;
      // The prompt has 3 to 13 tokens.
      const auto prompt = static_cast<int32_t>(3 + s);
      const int32_t first = step == 0 ? 0 : prompt + step - 1, last = prompt + step;
      for (int32_t p = first; p < last; ++p) {
        batch.token_ids.push_back(step == 0 ? static_cast<int32_t>((7 * s + p) % c.vocab_size)
                                            : next[s]);
        batch.positions.push_back(p);
        batch.slot_mapping.push_back(first_block * kBlockSize + p);
      }
      batch.query_start.push_back(batch.num_tokens());
      batch.context_lens.push_back(last);
      batch.logits_rows.push_back(batch.num_tokens() - 1);
      for (int32_t b = 0; b < blocks_each; ++b) batch.block_tables.push_back(first_block + b);
    }
    if (members.empty()) break;
    model.run(batch);
    const auto logits = model.logits(0, static_cast<int32_t>(members.size()));
    all.insert(all.end(), logits.begin(), logits.end());
    for (size_t m = 0; m < members.size(); ++m) {
      const auto row = logits.subspan(m * c.vocab_size, c.vocab_size);
      next[members[m]] = static_cast<int32_t>(std::ranges::max_element(row) - row.begin());
    }
  }
  return all;
}

}  // namespace nanovllm
