// bench_context MODEL CONTEXT... [--tokens N] [--threads N] [--quantization Q] [--kv-cache-dtype
// T]: the time of a decoded token against the length of the context that it attends to.
//
// Prompts of rising length, each the beginning of the next, so that the prefix cache spares all but
// the new part. Prints one JSON object.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "nanovllm/llm.h"

namespace nanovllm::bench {
namespace {

using Json = nlohmann::ordered_json;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Json run(EngineConfig config, std::vector<int64_t> contexts, int64_t tokens) {
  std::sort(contexts.begin(), contexts.end());
  config.max_num_seqs = 1;
  config.max_model_len = contexts.back() + tokens;
  LLM llm(config);
  uint64_t state = 1;
  std::vector<int32_t> ids;
  Json points = Json::array();
  for (const int64_t context : contexts) {
    while (static_cast<int64_t>(ids.size()) < context) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      ids.push_back(
          static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(llm.info().vocab_size)));
    }
    std::vector<double> at;
    const double start = seconds_now();
    llm.add_request({.token_ids = ids},
                    {.temperature = 0, .max_tokens = tokens, .ignore_eos = true},
                    [&](const StreamEvent& event) {
                      if (event.token_id >= 0) at.push_back(seconds_now());
                    });
    while (llm.has_unfinished_requests()) llm.step();
    std::vector<double> steps;
    for (size_t i = 1; i < at.size(); ++i) steps.push_back(at[i] - at[i - 1]);
    std::sort(steps.begin(), steps.end());
    points.push_back({{"context", context},
                      {"seconds_to_first_token", at.front() - start},
                      {"seconds_per_token", steps[steps.size() / 2]}});
    std::fprintf(stderr, "%lld tokens of context: %.2f ms a token\n",
                 static_cast<long long>(context), steps[steps.size() / 2] * 1e3);
  }
  return {{"kv_bytes_per_token", llm.memory_plan().kv_bytes_per_token},
          {"weights_bytes", llm.memory_plan().weights_bytes},
          {"points", points}};
}

}  // namespace
}  // namespace nanovllm::bench

int main(int argc, char** argv) {
  nanovllm::EngineConfig config;
  std::vector<int64_t> contexts;
  int64_t tokens = 16;
  config.model.clear();
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool is_flag = word.starts_with("--") && i + 1 < argc;
    if (is_flag && word == "--tokens") {
      tokens = std::max(2, std::atoi(argv[++i]));
    } else if (is_flag && word == "--threads") {
      config.threads = std::atoi(argv[++i]);
    } else if (is_flag && word == "--quantization") {
      config.quantization = argv[++i];
    } else if (is_flag && word == "--kv-cache-dtype") {
      config.kv_cache_dtype = argv[++i];
    } else if (config.model.empty()) {
      config.model = word;
    } else {
      contexts.push_back(std::max(1LL, std::atoll(word.c_str())));
    }
  }
  if (contexts.empty()) {
    std::fprintf(stderr, "usage: bench_context MODEL CONTEXT... [--tokens N] [--threads N]\n");
    return 2;
  }
  try {
    std::puts(nanovllm::bench::run(config, contexts, tokens).dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_context: %s\n", error.what());
    return 1;
  }
}
