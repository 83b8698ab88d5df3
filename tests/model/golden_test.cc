// Logprobs of the model runner on the tiny checkpoints against transformers' (golden.json), by one
// rank and by up to four, with no tokenizer, scheduler or server around it: what can be
// cross-compiled and run under an emulator.
#include "golden.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <tuple>
#include <vector>

#include "model/ranks.h"
#include "rank_zero.h"

namespace nanovllm {
namespace {

// A folder and a number of ranks.
class Golden : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

TEST_P(Golden, LogprobsOfTransformers) {
  const auto& [name, num_ranks] = GetParam();
  EngineConfig config;
  config.model = tiny_folder(name).string();
  config.tensor_parallel_size = num_ranks;
  config.dtype = config.kv_cache_dtype = "float32";
  config.max_num_batched_tokens = 128;
  config.max_model_len = 320;
  config.max_num_seqs = 1;
  config.threads = 2;
  config.device = "cpu";
  Ranks ranks(config);
  const RankZero zero(config, ranks.communicator(), num_ranks == 1 ? 2 : 1);
  int compared = 0;
  for (const GoldenPrompt& prompt : golden_prompts(name)) {
    // Logits come in the order of the batch, as many at a time as there may be.
    std::vector<int32_t> rows;
    std::span<const float> logits;
    const auto vocab_size = static_cast<size_t>(zero.checkpoint->config().vocab_size);
    const int64_t most = zero.runner->max_logits_rows();
    const std::vector<double> got = score(
        prompt.ids, 100, static_cast<int32_t>(zero.plan.block_size),
        [&](const Batch& batch) {
          rows = batch.logits_rows;
          zero.runner->run(batch);
        },
        [&](int32_t row) {
          if (row % most == 0)
            logits = zero.runner->logits(
                std::span(rows).subspan(row, std::min<int64_t>(most, std::ssize(rows) - row)));
          return logits.subspan(row % most * vocab_size, vocab_size);
        });
    ASSERT_EQ(got.size(), prompt.logprobs.size());
    for (size_t i = 0; i < got.size(); ++i, ++compared)
      EXPECT_NEAR(got[i], prompt.logprobs[i], 1e-3) << "token " << i << " of " << prompt.ids.size();
  }
  EXPECT_GT(compared, 300);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Golden,
                         ::testing::Combine(::testing::ValuesIn(golden_folders()),
                                            ::testing::Values(1, 2, 3, 4)),
                         [](const auto& info) {
                           return test_name(std::get<0>(info.param)) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace nanovllm
