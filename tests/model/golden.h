// The tiny checkpoints with what transformers computes from them (golden.json), and a model's
// logprobs to compare with it: what the tests of every backend share.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "backend/batch.h"

namespace nanovllm {

inline std::filesystem::path tiny_folder(const std::string& name) {
  return std::filesystem::path(NANO_VLLM_SOURCE_DIR) / "tests/data/tiny" / name;
}

inline std::vector<std::string> golden_folders() {
  std::vector<std::string> names;
  for (const auto& entry :
       std::filesystem::directory_iterator(NANO_VLLM_SOURCE_DIR "/tests/data/tiny"))
    if (std::filesystem::exists(entry.path() / "golden.json"))
      names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

struct GoldenPrompt {
  std::vector<int32_t> ids;
  std::vector<double> logprobs;  // of each token after the first
};
inline std::vector<GoldenPrompt> golden_prompts(const std::string& name) {
  std::ifstream file(tiny_folder(name) / "golden.json");
  std::vector<GoldenPrompt> prompts;
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const auto& prompt : golden.at("prompts"))
    prompts.push_back({prompt.at("ids").get<std::vector<int32_t>>(),
                       prompt.at("logprobs").get<std::vector<double>>()});
  return prompts;
}

// For INSTANTIATE_TEST_SUITE_P.
inline std::string test_name(std::string folder) {
  std::replace(folder.begin(), folder.end(), '-', '_');
  return folder;
}

inline double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - largest);
  return largest + std::log(sum);
}

// The logprob of each token after the first, the prompt given in chunks. Blocks are used backwards.
// run: a forward pass; logits: of one of its tokens.
inline std::vector<double> score(
    const std::vector<int32_t>& ids, int32_t chunk, int32_t block_size,
    const std::function<void(const Batch&)>& run,
    const std::function<std::span<const float>(int32_t row)>& row_logits) {
  std::vector<double> logprobs;
  const int32_t length = static_cast<int32_t>(ids.size());
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
    run(batch);
    for (int32_t p = first; p < std::min(last, length - 1); ++p) {
      const int32_t row = p - first;
      const std::span<const float> logits = row_logits(row);
      logprobs.push_back(logits[ids[p + 1]] - log_sum_exp(logits));
    }
  }
  return logprobs;
}

}  // namespace nanovllm
