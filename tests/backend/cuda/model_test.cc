// The model on the CUDA backend, end to end: logprobs on the tiny checkpoints against those of
// transformers.
#include <gtest/gtest.h>

#include "cuda_test_util.h"
#include "model/checkpoint.h"
#include "model/golden.h"
#include "model/transformer.h"

namespace nanovllm {
namespace {

constexpr int64_t kTokens = 128, kPositions = 320, kBlockSize = 16;

// A transformer on the device, and the logits of its last batch.
struct Model {
  Model(const std::string& folder, bool float32, bool eager = true)
      : backend(make_cuda_backend(eager)), checkpoint(Checkpoint::open(folder)) {
    const ModelConfig& c = checkpoint->config();
    transformer = std::make_unique<Transformer>(
        *checkpoint, *backend, float32 ? WeightType::kFloat32 : WeightType::kAsStored, kTokens,
        kPositions);
    backend->allocate_kv_cache({c.num_layers, kPositions / kBlockSize + 1, kBlockSize,
                                c.num_kv_heads, c.head_dim,
                                float32 ? KVType::kFloat32 : KVType::kBFloat16});
    logits_buffer = backend->allocate(backend->max_logits_rows() * c.vocab_size);
    backend->reserve({.max_tokens = kTokens,
                      .max_seqs = 4,
                      .max_blocks = kPositions / kBlockSize + 1,
                      .max_position = kPositions,
                      .vocab_size = c.vocab_size});
  }
  void run(const Batch& batch) {
    backend->run(batch, [&](const Batch& b) { return transformer->forward(b); });
    rows = batch.logits_rows;
  }
  std::span<const float> logits(int32_t row) {
    transformer->compute_logits(rows.subspan(row, 1), logits_buffer);
    return backend->to_host(logits_buffer, checkpoint->config().vocab_size);
  }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Transformer> transformer;
  float* logits_buffer;
  std::span<const int32_t> rows;  // of the last batch
};

class CudaGolden : public ::testing::TestWithParam<std::string> {
 protected:
  // The mean and the largest difference from transformers' logprobs.
  std::pair<double, double> differences(bool float32, int32_t chunk) {
    Model model(tiny_folder(GetParam()).string(), float32);
    double sum = 0, largest = 0;
    int64_t count = 0;
    for (const GoldenPrompt& prompt : golden_prompts(GetParam())) {
      const std::vector<double> got = score(
          prompt.ids, chunk, kBlockSize, [&](const Batch& batch) { model.run(batch); },
          [&](int32_t row) { return model.logits(row); });
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

}  // namespace
}  // namespace nanovllm
