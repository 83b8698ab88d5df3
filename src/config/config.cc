#include "nanovllm/config.h"

#include <cmath>
#include <cstdlib>
#include <initializer_list>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

void check_range(const char* flag, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw InvalidArgument(flag, "is " + std::to_string(value) + ", allowed is " +
                                    std::to_string(low) + " to " + std::to_string(high));
}

void check_choice(const char* flag, const std::string& value,
                  std::initializer_list<const char*> choices) {
  std::string allowed;
  for (const char* choice : choices) {
    if (value == choice) return;
    allowed += (allowed.empty() ? "" : ", ") + std::string(choice);
  }
  throw InvalidArgument(flag, "is '" + value + "', allowed are " + allowed);
}

}  // namespace

void EngineConfig::validate() const {
  constexpr int64_t kMaxTokens = int64_t{1} << 28;
  check_range("--max-model-len", max_model_len, 0, kMaxTokens);
  check_range("--max-num-seqs", max_num_seqs, 0, 65536);
  check_range("--max-num-batched-tokens", max_num_batched_tokens, 0, 1 << 20);
  check_range("--block-size", block_size, 1, 65536);
  check_range("--kv-cache-memory-bytes", kv_cache_memory_bytes, 0, int64_t{1} << 46);
  check_range("--tensor-parallel-size", tensor_parallel_size, 1, 1024);
  check_range("--threads", threads, 0, 1024);
  check_choice("--kv-cache-dtype", kv_cache_dtype, {"auto", "float32", "bfloat16", "int8"});
  check_choice("--dtype", dtype, {"auto", "float32", "bfloat16"});
  check_choice("--quantization", quantization, {"none", "int8", "int4", "fp8"});
  check_choice("--device", device, {"auto", "cpu", "cuda"});
  if (!(gpu_memory_utilization > 0 && gpu_memory_utilization <= 1))
    throw InvalidArgument(
        "--gpu-memory-utilization",
        "is " + std::to_string(gpu_memory_utilization) + ", allowed is above 0 to 1");
  if (!(structured_outputs_timeout > 0 && structured_outputs_timeout <= 3600))
    throw InvalidArgument(
        "--structured-outputs-timeout",
        "is " + std::to_string(structured_outputs_timeout) + ", allowed is above 0 to 3600");
  speculative_config.validate();
}

int64_t parse_memory_bytes(const std::string& flag, const std::string& text) {
  auto fail = [&]() -> int64_t {
    throw InvalidArgument(
        flag, "is '" + text + "', allowed are bytes such as 1073741824, 512MiB, 2GiB or 1.5GB");
  };
  if (text.empty() || !(text[0] >= '0' && text[0] <= '9')) fail();
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const std::string unit(end);
  double scale = 0;
  const std::pair<const char*, double> units[] = {
      {"", 1},         {"B", 1},      {"kB", 1e3},     {"KB", 1e3},     {"MB", 1e6},
      {"GB", 1e9},     {"TB", 1e12},  {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30},
      {"TiB", 0x1p40}, {"K", 0x1p10}, {"M", 0x1p20},   {"G", 0x1p30}};
  for (const auto& [name, factor] : units)
    if (unit == name) scale = factor;
  const double bytes = number * scale;
  if (scale == 0 || !std::isfinite(bytes) || bytes < 0 || bytes > 0x1p46) fail();
  return static_cast<int64_t>(bytes);
}

}  // namespace nanovllm
