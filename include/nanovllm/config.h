// EngineConfig: every engine flag, under the names vLLM gives them (dashes on the command line).
#pragma once

#include <cstdint>
#include <string>

namespace nanovllm {

struct EngineConfig {
  std::string model = "smollm2-135m-instruct";  // folder, .gguf file or short name (resolved before
                                                // the engine sees it)
  int64_t max_model_len =
      0;  // tokens, prompt plus output; 0: the model's own limit, or what the KV cache holds
  int64_t max_num_seqs = 64;             // sequences that run at once
  int64_t max_num_batched_tokens = 512;  // token budget of one step
  int64_t block_size = 16;               // tokens a KV block holds
  int64_t kv_cache_memory_bytes = 0;     // 0: just what max_num_seqs can use, at most 1 GiB
  std::string kv_cache_dtype = "auto";   // auto | float32 | bfloat16; auto is bfloat16
  std::string dtype = "auto";         // auto | float32 | bfloat16: how unquantized weights are kept
  std::string quantization = "none";  // none | int8 | int4: weight-only, applied at load
  int64_t tensor_parallel_size = 1;
  std::string device = "auto";  // auto | cpu | cuda
  double gpu_memory_utilization = 0.9;
  bool enforce_eager = false;
  int64_t threads = 0;  // 0: one a physical core this process may use
  bool enable_prefix_caching = true;
  uint64_t seed = 0;  // seeds requests that name no seed of their own

  // Throws InvalidArgument naming the flag ("--block-size"), the value and what is allowed. Checks
  // ranges only; what depends on the model is checked by the LLM constructor.
  void validate() const;
};

// "1048576", "512MiB", "2GiB", "1.5GB" -> bytes. Throws InvalidArgument(flag, ...).
int64_t parse_memory_bytes(const std::string& flag, const std::string& text);

}  // namespace nanovllm
