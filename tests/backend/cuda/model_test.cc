// The model on the CUDA backend, end to end: logprobs on the tiny checkpoints against those of
// transformers.
#include <gtest/gtest.h>

#include "cuda_model.h"
#include "model/golden.h"
#include "model/random_checkpoint.h"

namespace nanovllm {
namespace {

std::vector<double> logprobs(Model& model, const std::vector<int32_t>& ids, int32_t chunk) {
  return score(
      ids, chunk, kBlockSize, [&](const Batch& batch) { model.run(batch); },
      [&](int32_t row) { return model.logits(row); });
}

double mean_difference(Model& a, Model& b, const std::vector<int32_t>& ids, int32_t chunk) {
  const std::vector<double> of_a = logprobs(a, ids, chunk), of_b = logprobs(b, ids, chunk);
  double sum = 0;
  for (size_t i = 0; i < of_b.size(); ++i) sum += std::fabs(of_a[i] - of_b[i]);
  return sum / static_cast<double>(of_b.size());
}

class CudaGolden : public ::testing::TestWithParam<std::string> {
 protected:
  // The mean and the largest difference from transformers' logprobs.
  std::pair<double, double> differences(bool float32, int32_t chunk) {
    Model model(tiny_folder(GetParam()).string(), make_cuda_backend(true), float32);
    double sum = 0, largest = 0;
    int64_t count = 0;
    for (const GoldenPrompt& prompt : golden_prompts(GetParam())) {
      const std::vector<double> got = logprobs(model, prompt.ids, chunk);
      for (size_t i = 0; i < got.size(); ++i, ++count) {
        const double difference = std::fabs(got[i] - prompt.logprobs[i]);
        sum += difference;
        largest = std::max(largest, difference);
      }
    }
    EXPECT_GT(count, 300);
    return {sum / static_cast<double>(count), largest};
  }
};

TEST_P(CudaGolden, LogprobsOfTransformers) { EXPECT_LT(differences(true, 100).second, 1e-3); }

INSTANTIATE_TEST_SUITE_P(Tiny, CudaGolden, ::testing::ValuesIn(golden_folders()),
                         [](const auto& info) { return test_name(info.param); });

// Activations are rounded to bfloat16 as well, so that a little more is lost than on the CPU.
class CudaGoldenInBFloat16 : public CudaGolden {};
TEST_P(CudaGoldenInBFloat16, LogprobsOfTransformers) {
  EXPECT_LT(differences(false, 100).first, 0.05);
}

INSTANTIATE_TEST_SUITE_P(Tiny, CudaGoldenInBFloat16,
                         ::testing::Values("llama-rope-yarn", "mistral", "qwen2", "qwen3-bias"),
                         [](const auto& info) { return test_name(info.param); });

std::vector<int32_t> random_ids(int64_t n, int64_t vocab, Random& random) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>(random.integer(0, vocab - 1)));
  return ids;
}

// Models whose heads tensor cores take, against the CPU backend with the same bfloat16 weights and
// cache.
TEST(CudaModel, LogprobsOfTheCpuBackend) {
  std::vector<RandomCheckpointShape> shapes(4);
  shapes[0] = {.heads = 3, .kv_heads = 1, .head_dim = 64};
  shapes[1] = {.hidden = 80, .heads = 2, .kv_heads = 2, .head_dim = 80};
  shapes[2] = {.hidden = 96, .intermediate = 50, .heads = 2, .kv_heads = 1, .head_dim = 96};
  shapes[3] = {.architecture = "Qwen3ForCausalLM", .model_type = "qwen3", .head_dim = 128};
  for (const RandomCheckpointShape& shape : shapes) {
    const RandomCheckpoint checkpoint(shape, static_cast<uint32_t>(shape.head_dim));
    Model gpu(checkpoint.folder(), make_cuda_backend(true), false);
    Model cpu(checkpoint.folder(), make_cpu_backend(1), false);
    Random random(61);
    for (const int32_t chunk : {100, 7, 1}) {
      const auto ids = random_ids(chunk == 100 ? 250 : 30, shape.vocab, random);
      // With one key too few it is above 0.2.
      EXPECT_LT(mean_difference(gpu, cpu, ids, chunk), 0.05) << shape.head_dim << " by " << chunk;
    }
  }
}

// Quantized, in steps of few rows and of many, against the CPU backend with the same quants; it has
// no fp8, which is compared with bfloat16 and has the error of three bits of mantissa.
TEST(CudaModel, QuantizedLogprobsOfTheCpuBackend) {
  const RandomCheckpoint checkpoint({.heads = 3, .kv_heads = 1, .head_dim = 64}, 64);
  Random random(62);
  const auto ids = random_ids(120, RandomCheckpointShape().vocab, random);
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4, WeightType::kFloat8}) {
    Model gpu(checkpoint.folder(), make_cuda_backend(true), type);
    Model cpu(checkpoint.folder(), make_cpu_backend(1),
              type == WeightType::kFloat8 ? WeightType::kAsStored : type);
    for (const int32_t chunk : {100, 7}) {
      EXPECT_LT(mean_difference(gpu, cpu, ids, chunk), type == WeightType::kFloat8 ? 0.35 : 0.1)
          << static_cast<int>(type) << " by " << chunk;
    }
  }
}

TEST(CudaModel, SameBitsWithGraphsAndWithout) {
  const RandomCheckpoint checkpoint({}, 1);
  Model eager(checkpoint.folder(), make_cuda_backend(true), false);
  Model graphs(checkpoint.folder(), make_cuda_backend(false), false);
  EXPECT_TRUE(eager.backend->recorded_sizes().empty());
  EXPECT_EQ(graphs.backend->recorded_sizes(), (std::vector<int32_t>{1, 2, 4, 8, 12}));
  const std::vector<float> want = decode_some(eager, 100);
  EXPECT_EQ(std::ssize(want), (11 + 11 + 10 + 9 + 9 + 8 + 7 + 7 + 6 + 6 + 5 * 9 + 2 * 2) * 120);
  for (const float x : want) ASSERT_TRUE(std::isfinite(x));
  EXPECT_TRUE(same_bits(decode_some(graphs, 100), want));
}

// A pass that is given up while it is recorded leaves nothing behind.
TEST(CudaModel, ForgetsAGraphThatWasGivenUp) {
  const RandomCheckpoint checkpoint({}, 2);
  Model model(checkpoint.folder(), make_cuda_backend(false), false);
  const std::vector<float> want = decode_some(model, 2);
  Model other(checkpoint.folder(), make_cuda_backend(false), false);
  const std::atomic<bool> give_up = true;
  const Batch batch = one_token_each(11);
  EXPECT_FALSE(other.backend->run(
      batch, [&](const Batch& b) { return other.transformer->forward(b, &give_up); }));
  EXPECT_THROW(
      other.backend->run(batch, [&](const Batch&) -> bool { throw Error("forward", "failed"); }),
      Error);
  EXPECT_TRUE(same_bits(decode_some(other, 2), want));
}

}  // namespace
}  // namespace nanovllm
