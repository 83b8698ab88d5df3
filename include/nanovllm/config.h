// EngineConfig: every engine flag, under the names vLLM gives them (dashes on the command line).
#pragma once

#include <cstdint>
#include <string>

namespace nanovllm {

// Speculative decoding: tokens that are guessed and checked in the step that computes the newest
// one. Answers are bitwise the same with it and without; docs/speculative.md says when it pays.
struct SpeculativeConfig {
  std::string method;                  // "": none | ngram: prompt lookup
  int64_t num_speculative_tokens = 0;  // most guesses at a time
  // Longest and shortest run of tokens that is looked for in the text so far. 0: as the other, and
  // 5 if both are.
  int64_t prompt_lookup_max = 0, prompt_lookup_min = 0;

  bool enabled() const { return !method.empty(); }
  int64_t lookup_max() const { return prompt_lookup_max ? prompt_lookup_max : lookup_min(); }
  int64_t lookup_min() const {
    return prompt_lookup_min ? prompt_lookup_min : prompt_lookup_max ? prompt_lookup_max : 5;
  }
  void validate() const;  // as EngineConfig's, which calls it
};

struct EngineConfig {
  std::string model = "smollm2-135m-instruct";  // folder, .gguf file or short name (resolved before
                                                // the engine sees it)
  int64_t max_model_len =
      0;  // tokens, prompt plus output; 0: the model's own limit, or what the KV cache holds
  int64_t max_num_seqs = 0;            // sequences that run at once; 0: 64, on a GPU 256
  int64_t max_num_batched_tokens = 0;  // token budget of one step; 0: 512, on a GPU 8192
  bool short_steps = false;            // 0 is 128 on a CPU, where others wait for the step's end
  int64_t block_size = 16;             // tokens a KV block holds
  // 0: just what max_num_seqs can use, at most 1 GiB; on a GPU, what gpu_memory_utilization leaves.
  int64_t kv_cache_memory_bytes = 0;
  std::string kv_cache_dtype = "auto";  // auto | float32 | bfloat16 | int8; auto is bfloat16
  std::string dtype = "auto";  // auto | float32 | bfloat16: how unquantized weights are kept
  std::string quantization =
      "none";  // none | int8 | int4 | fp8 (cuda): of weights that are not quantized, at load
  int64_t tensor_parallel_size = 1;
  std::string device = "auto";          // auto | cpu | cuda
  double gpu_memory_utilization = 0.9;  // share of what this process can get, not of the GPU
  bool enforce_eager = false;
  // On a device that samples itself: the next step is scheduled and enqueued before the tokens of
  // this one are known. They are the same either way.
  bool async_scheduling = true;
  int64_t threads = 0;  // 0: one a physical core this process may use
  bool enable_prefix_caching = true;
  SpeculativeConfig speculative_config;
  double structured_outputs_timeout = 5;  // seconds that compiling a schema or grammar may take
  uint64_t seed = 0;                      // seeds requests that name no seed of their own

  // Throws InvalidArgument naming the flag ("--block-size"), the value and what is allowed. Checks
  // ranges only; what depends on the model is checked by the LLM constructor.
  void validate() const;
};

// "1048576", "512MiB", "2GiB", "1.5GB" -> bytes. Throws InvalidArgument(flag, ...).
int64_t parse_memory_bytes(const std::string& flag, const std::string& text);

// The JSON of --speculative-config, with vLLM's keys: {"method": "ngram", "num_speculative_tokens":
// 4, "prompt_lookup_max": 5, "prompt_lookup_min": 2}. Throws InvalidArgument(flag, ...) naming the
// key, its value and what is allowed; unknown keys are refused.
SpeculativeConfig parse_speculative_config(const std::string& flag, const std::string& text);

}  // namespace nanovllm
