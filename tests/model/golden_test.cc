// Logprobs of the model runner on the tiny checkpoints against transformers' (golden.json), with no
// tokenizer, scheduler or server around it: what can be cross-compiled and run under an emulator.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/model_runner.h"

namespace nanovllm {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> golden_folders() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(NANO_VLLM_SOURCE_DIR "/tests/data/tiny"))
    if (fs::exists(entry.path() / "golden.json")) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - largest);
  return largest + std::log(sum);
}

// The logprob of each token after the first, the prompt given in chunks. Blocks are used backwards.
std::vector<double> score(ModelRunner& runner, const MemoryPlan& plan,
                          const std::vector<int32_t>& ids, int32_t chunk) {
  std::vector<double> logprobs;
  const int32_t length = static_cast<int32_t>(ids.size());
  const int32_t block_size = static_cast<int32_t>(plan.block_size);
  const int32_t blocks = (length + block_size - 1) / block_size;
  for (int32_t first = 0; first < length; first += chunk) {
    const int32_t last = std::min(first + chunk, length);
    Batch batch;
    batch.block_size = block_size;
    batch.block_table_stride = blocks;
    for (int32_t b = 0; b < blocks; ++b) batch.block_tables.push_back(blocks - 1 - b);
    for (int32_t p = first; p < last; ++p) {
      batch.token_ids.push_back(ids[p]);
      batch.positions.push_back(p);
      batch.slot_mapping.push_back((blocks - 1 - p / block_size) * block_size + p % block_size);
      batch.logits_rows.push_back(p - first);
    }
    batch.query_start = {0, last - first};
    batch.context_lens = {last};
    runner.run(batch);
    for (int32_t p = first; p < std::min(last, length - 1); ++p) {
      const int32_t row = p - first;
      const std::span<const float> logits = runner.logits({&row, 1});
      logprobs.push_back(logits[ids[p + 1]] - log_sum_exp(logits));
    }
  }
  return logprobs;
}

class Golden : public ::testing::TestWithParam<std::string> {};

TEST_P(Golden, LogprobsOfTransformers) {
  const fs::path folder = fs::path(NANO_VLLM_SOURCE_DIR) / "tests/data/tiny" / GetParam();
  const auto checkpoint = Checkpoint::open(folder.string());
  EngineConfig config;
  config.dtype = config.kv_cache_dtype = "float32";
  config.max_num_batched_tokens = 128;
  config.max_model_len = 320;
  config.max_num_seqs = 1;
  config.threads = 2;
  const MemoryPlan plan = plan_memory(*checkpoint, &config);
  ModelRunner runner(*checkpoint, config, plan);
  int compared = 0;
  std::ifstream file(folder / "golden.json");
  const auto golden = nlohmann::json::parse(file);
  for (const auto& prompt : golden.at("prompts")) {
    const auto ids = prompt.at("ids").get<std::vector<int32_t>>();
    const auto expected = prompt.at("logprobs").get<std::vector<double>>();
    const std::vector<double> got = score(runner, plan, ids, 100);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i, ++compared)
      EXPECT_NEAR(got[i], expected[i], 1e-3) << "token " << i << " of " << ids.size();
  }
  EXPECT_GT(compared, 300);
}

INSTANTIATE_TEST_SUITE_P(Tiny, Golden, ::testing::ValuesIn(golden_folders()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace nanovllm
