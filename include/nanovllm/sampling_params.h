// SamplingParams: how one request turns logits into tokens, and when it stops. Names, ranges and
// defaults are vLLM's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "nanovllm/structured_outputs.h"

namespace nanovllm {

struct SamplingParams {
  double temperature = 1.0;              // >= 0; 0 is greedy
  int64_t top_k = 0;                     // 0 or -1: all tokens
  double top_p = 1.0;                    // (0, 1]
  double min_p = 0.0;                    // [0, 1]
  double repetition_penalty = 1.0;       // > 0; prompt and output tokens
  double presence_penalty = 0.0;         // [-2, 2]; output tokens
  double frequency_penalty = 0.0;        // [-2, 2]; output tokens
  std::map<int32_t, double> logit_bias;  // token id -> added to its logit, [-100, 100]
  std::optional<int64_t> seed;    // a seeded request gives the same tokens whatever runs beside it
  int64_t max_tokens = 16;        // >= 0; 0 only scores the prompt. -1: up to max_model_len
  int64_t min_tokens = 0;         // no stop of any kind before that many
  std::vector<std::string> stop;  // stop strings; the text ends before the match
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool skip_special_tokens = true;  // in the text
  bool include_stop_str_in_output = false;
  int64_t n = 1;  // completions of one prompt
  std::optional<int64_t>
      logprobs;  // top-N alternatives beside each chosen token; 0: the chosen one only
  std::optional<int64_t> prompt_logprobs;  // the same for each prompt token but the first
  StructuredOutputs structured_outputs;    // a form that the text must have; none

  // Throws InvalidArgument(field, reason) for the first value out of range; vocab_size 0 skips the
  // token id checks.
  void validate(int64_t vocab_size) const;
};

// The model's generation_config.json: what a request leaves out. Only what the file states is set.
struct GenerationDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
};

}  // namespace nanovllm
