#include "nanovllm/sampling_params.h"

#include <cmath>

#include "nanovllm/error.h"
#include "nanovllm/outputs.h"

namespace nanovllm {
namespace {

// The longest list or number a request may ask for; generous, but nothing it names can exhaust
// memory by itself.
constexpr int64_t kMaxTokens = int64_t{1} << 28;
constexpr int64_t kMaxN = 1024;
constexpr int64_t kMaxLogprobs = 20;  // vLLM's default limit
constexpr size_t kMaxStops = 1024;

std::string shown(double v) {
  std::string s = std::to_string(v);
  while (s.find('.') != std::string::npos && (s.back() == '0' || s.back() == '.')) {
    const bool dot = s.back() == '.';
    s.pop_back();
    if (dot) break;
  }
  return s;
}

void require(bool ok, const char* field, double value, const char* allowed) {
  if (!ok) throw InvalidArgument(field, "is " + shown(value) + ", allowed is " + allowed);
}

void check_token(const char* field, int64_t id, int64_t vocab_size) {
  if (id < 0 || (vocab_size > 0 && id >= vocab_size))
    throw InvalidArgument(field, "holds token id " + std::to_string(id) +
                                     ", outside the vocabulary of " + std::to_string(vocab_size));
}

}  // namespace

void SamplingParams::validate(int64_t vocab_size) const {
  // Written so that NaN fails.
  require(temperature >= 0 && temperature <= 1e6, "temperature", temperature, "0 or more");
  require(top_k >= -1 && top_k <= kMaxTokens, "top_k", static_cast<double>(top_k),
          "-1, 0 (all) or at least 1");
  require(top_p > 0 && top_p <= 1, "top_p", top_p, "above 0 to 1");
  require(min_p >= 0 && min_p <= 1, "min_p", min_p, "0 to 1");
  require(repetition_penalty > 0 && repetition_penalty <= 1e6, "repetition_penalty",
          repetition_penalty, "above 0");
  require(presence_penalty >= -2 && presence_penalty <= 2, "presence_penalty", presence_penalty,
          "-2 to 2");
  require(frequency_penalty >= -2 && frequency_penalty <= 2, "frequency_penalty", frequency_penalty,
          "-2 to 2");
  require(max_tokens >= -1 && max_tokens <= kMaxTokens, "max_tokens",
          static_cast<double>(max_tokens), "0 or more");
  require(min_tokens >= 0 && min_tokens <= kMaxTokens, "min_tokens",
          static_cast<double>(min_tokens), "0 or more");
  if (max_tokens >= 0 && min_tokens > max_tokens)
    throw InvalidArgument("min_tokens", "is " + std::to_string(min_tokens) +
                                            ", more than max_tokens " + std::to_string(max_tokens));
  require(n >= 1 && n <= kMaxN, "n", static_cast<double>(n), "1 to 1024");
  if (temperature < 1e-5 && n > 1)
    throw InvalidArgument("n", "is " + std::to_string(n) +
                                   ", but greedy decoding (temperature 0) gives one completion");
  if (logprobs)
    require(*logprobs >= 0 && *logprobs <= kMaxLogprobs, "logprobs", static_cast<double>(*logprobs),
            "0 to 20");
  if (prompt_logprobs)
    require(*prompt_logprobs >= 0 && *prompt_logprobs <= kMaxLogprobs, "prompt_logprobs",
            static_cast<double>(*prompt_logprobs), "0 to 20");
  for (const auto& [id, bias] : logit_bias) {
    check_token("logit_bias", id, vocab_size);
    require(bias >= -100 && bias <= 100, "logit_bias", bias, "-100 to 100");
  }
  if (stop.size() > kMaxStops) throw InvalidArgument("stop", "holds more than 1024 strings");
  for (const std::string& s : stop) {
    if (s.empty()) throw InvalidArgument("stop", "holds an empty string");
    if (s.size() > 65536) throw InvalidArgument("stop", "holds a string of more than 65536 bytes");
  }
  if (stop_token_ids.size() > kMaxStops)
    throw InvalidArgument("stop_token_ids", "holds more than 1024 ids");
  for (int32_t id : stop_token_ids) check_token("stop_token_ids", id, vocab_size);
  structured_outputs.validate();
}

const char* to_string(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kNone:
      break;
  }
  return "";
}

}  // namespace nanovllm
