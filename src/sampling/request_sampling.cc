#include "sampling/request_sampling.h"

#include <algorithm>
#include <limits>

namespace nanovllm {

RequestSampling::RequestSampling(const SamplingParams& params, uint64_t seed,
                                 int64_t num_prompt_tokens, std::span<const int32_t> eos_token_ids)
    : min_tokens_(params.structured_outputs.compiled ? 0 : params.min_tokens),
      has_penalties_(params.repetition_penalty != 1.0 || params.presence_penalty != 0 ||
                     params.frequency_penalty != 0) {
  plain_.num_logprobs = static_cast<int32_t>(params.logprobs.value_or(-1));
  plain_.temperature = params.temperature;
  plain_.top_p = params.top_p;
  plain_.min_p = params.min_p;
  plain_.top_k = params.top_k;
  plain_.seed = seed;
  plain_.repetition_penalty = params.repetition_penalty;
  plain_.presence_penalty = params.presence_penalty;
  plain_.frequency_penalty = params.frequency_penalty;
  plain_.num_prompt_tokens = num_prompt_tokens;
  for (const auto& [id, bias] : params.logit_bias)
    biases_.push_back({id, static_cast<float>(bias)});
  num_biases_ = biases_.size();
  if (min_tokens_ == 0) return;
  auto never = [&](int32_t id) {
    const auto so_far = std::span(biases_).subspan(num_biases_);
    if (std::ranges::find(so_far, id, &LogitBias::token_id) == so_far.end())
      biases_.push_back({id, -std::numeric_limits<float>::infinity()});
  };
  std::ranges::for_each(params.stop_token_ids, never);
  std::ranges::for_each(eos_token_ids, never);
}

SampleRow RequestSampling::row(std::span<const int32_t> tokens, int index,
                               uint64_t sequence) const {
  SampleRow row = plain_;
  row.position = std::ssize(tokens);
  row.index = index;
  row.sequence = sequence;
  const bool may_stop = row.position - row.num_prompt_tokens >= min_tokens_;
  row.biases = std::span(biases_).first(may_stop ? num_biases_ : biases_.size());
  if (has_penalties_) row.history = tokens;
  return row;
}

}  // namespace nanovllm
