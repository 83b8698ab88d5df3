// Logprobs of the model runner on the tiny checkpoints against transformers' (golden.json), with no
// tokenizer, scheduler or server around it: what can be cross-compiled and run under an emulator.
#include "golden.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/model_runner.h"

namespace nanovllm {
namespace {

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, LogprobsOfTransformers) {
  const auto checkpoint = Checkpoint::open(tiny_folder(GetParam()).string());
  EngineConfig config;
  config.dtype = config.kv_cache_dtype = "float32";
  config.max_num_batched_tokens = 128;
  config.max_model_len = 320;
  config.max_num_seqs = 1;
  config.threads = 2;
  const MemoryPlan plan = plan_memory(*checkpoint, &config);
  ModelRunner runner(*checkpoint, config, plan);
  int compared = 0;
  for (const GoldenPrompt& prompt : golden_prompts(GetParam())) {
    const std::vector<double> got = score(
        prompt.ids, 100, static_cast<int32_t>(plan.block_size),
        [&](const Batch& batch) { runner.run(batch); },
        [&](int32_t row) {
          return runner.logits({&row, 1});
        });
    ASSERT_EQ(got.size(), prompt.logprobs.size());
    for (size_t i = 0; i < got.size(); ++i, ++compared)
      EXPECT_NEAR(got[i], prompt.logprobs[i], 1e-3) << "token " << i << " of " << prompt.ids.size();
  }
  EXPECT_GT(compared, 300);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Golden, ::testing::ValuesIn(golden_folders()),
                         [](const auto& info) { return test_name(info.param); });

}  // namespace
}  // namespace nanovllm
