// The engine on the CUDA backend, loaded as a plugin: the same tokens as on the CPU, where both
// compute in float32; the same with graphs, with overlapping steps and without.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "nanovllm/llm.h"

namespace nanovllm {
namespace {

struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
};

EngineConfig engine_config(const std::string& model, const std::string& device) {
  setenv("NANO_VLLM_CUDA_PLUGIN", NANO_VLLM_TEST_PLUGIN, 1);
  return {.model = NANO_VLLM_SOURCE_DIR "/tests/data/tiny/" + model,
          .max_model_len = 96,
          .max_num_seqs = 6,
          .max_num_batched_tokens = 40,
          .kv_cache_memory_bytes = 4 << 20,
          .kv_cache_dtype = "float32",
          .dtype = "float32",
          .device = device,
          .threads = 1};
}

// More requests than run at once, long prompts cut to the budget, every kind of sampling.
std::vector<Answer> answers(const EngineConfig& config) {
  LLM llm(config);
  std::vector<Prompt> prompts;
  std::vector<SamplingParams> params;
  for (int i = 0; i < 9; ++i) {
    Prompt& prompt = prompts.emplace_back();
    for (int t = 0; t < 3 + 7 * i; ++t) prompt.token_ids.push_back((11 * i + 5 * t) % 100);
    SamplingParams& p = params.emplace_back();
    p.max_tokens = 6 + 2 * i;
    p.ignore_eos = true;
    p.seed = 100 + i;
    p.temperature = i % 3 == 0 ? 0 : 0.9;
    if (i % 3 == 1) p.top_k = 20, p.top_p = 0.8;
    if (i % 3 == 2) p.min_p = 0.02;
    if (i % 4 == 1) p.repetition_penalty = 1.2, p.frequency_penalty = 0.1;
    if (i % 4 == 2) p.logit_bias = {{3, 2.0}, {5, -100.0}}, p.min_tokens = 4;
    if (i % 2) p.logprobs = 3;
    if (i == 4) p.prompt_logprobs = 1;
  }
  std::vector<Answer> all;
  for (const RequestOutput& output : llm.generate(prompts, params)) {
    Answer& answer = all.emplace_back();
    answer.tokens = output.outputs[0].token_ids;
    for (const auto* positions : {&output.outputs[0].logprobs, &output.prompt_logprobs})
      for (const PositionLogprobs& position : *positions)
        for (const TokenLogprob& l : position) answer.logprobs.push_back(l.logprob);
  }
  return all;
}

void expect_same(const std::vector<Answer>& got, const std::vector<Answer>& want,
                 float logprob_tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].tokens, want[i].tokens) << "request " << i;
    ASSERT_EQ(got[i].logprobs.size(), want[i].logprobs.size()) << "request " << i;
    for (size_t j = 0; j < want[i].logprobs.size(); ++j)
      EXPECT_NEAR(got[i].logprobs[j], want[i].logprobs[j], logprob_tolerance)
          << "request " << i << ", " << j;
  }
}

class CudaEngine : public ::testing::TestWithParam<const char*> {};

TEST_P(CudaEngine, TokensOfTheCpuHoweverItRuns) {
  const std::vector<Answer> cpu = answers(engine_config(GetParam(), "cpu"));
  const std::vector<Answer> cuda = answers(engine_config(GetParam(), "cuda"));
  expect_same(cuda, cpu, 1e-3f);
  EngineConfig config = engine_config(GetParam(), "cuda");
  config.async_scheduling = false;
  expect_same(answers(config), cuda, 0);
  config.enforce_eager = true;
  expect_same(answers(config), cuda, 0);
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaEngine, ::testing::Values("qwen3", "mistral"),
                         [](const auto& info) { return std::string(info.param); });

// Each rank on a GPU of its own, against as many on the CPU. Steps as they are give the same bits
// as recorded ones.
class CudaRanks : public ::testing::TestWithParam<int> {};

TEST_P(CudaRanks, TokensOfTheCpu) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < GetParam())
    GTEST_SKIP() << "needs " << GetParam() << " GPUs";
  EngineConfig config = engine_config("qwen3", "cpu");
  config.tensor_parallel_size = GetParam();
  const std::vector<Answer> cpu = answers(config);
  config.device = "cuda";
  const std::vector<Answer> cuda = answers(config);
  expect_same(cuda, cpu, 1e-3f);
  config.enforce_eager = true;
  expect_same(answers(config), cuda, 0);
}

// The cache is as large as the fullest GPU allows.
TEST_P(CudaRanks, MakeOnePlan) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < GetParam())
    GTEST_SKIP() << "needs " << GetParam() << " GPUs";
  EngineConfig config = engine_config("qwen3", "cuda");
  config.tensor_parallel_size = GetParam();
  const MemoryPlan given = LLM(config).memory_plan();
  const int64_t fixed = given.weights_bytes + given.activation_bytes + given.reserved_bytes;
  config.kv_cache_memory_bytes = 0;
  config.gpu_memory_utilization =
      static_cast<double>(fixed + (100 << 10)) / static_cast<double>(given.free_bytes);
  EXPECT_LT(LLM(config).memory_plan().num_kv_blocks, given.num_kv_blocks);  // it is the bound
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaRanks, ::testing::Values(2, 3));

// The device's memory of int8 weights, and tokens.
TEST(CudaPlugin, QuantizedWeightsTakeLess) {
  EngineConfig config = engine_config("qwen3", "cuda");
  config.dtype = "auto";
  config.kv_cache_dtype = "auto";
  const int64_t plain = LLM(config).memory_plan().weights_bytes;
  config.quantization = "int8";
  EXPECT_LT(LLM(config).memory_plan().weights_bytes, plain);  // rows of 40 and 58 are padded to 64
  for (const Answer& answer : answers(config)) EXPECT_FALSE(answer.tokens.empty());
}

TEST(CudaPlugin, SaysWhereItRuns) {
  const LLM llm(engine_config("qwen3", "cuda"));
  EXPECT_EQ(llm.info().backend.rfind("cuda (", 0), 0) << llm.info().backend;
  EXPECT_EQ(llm.config().device, "cuda");
  EXPECT_GT(llm.memory_plan().reserved_bytes, 0);
}

}  // namespace
}  // namespace nanovllm
