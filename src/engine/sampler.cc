#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nanovllm {

Sampler::Sampler(int64_t vocab_size, std::vector<int32_t> eos_token_ids)
    : vocab_size_(vocab_size), eos_token_ids_(std::move(eos_token_ids)), scan_(vocab_size) {
  changes_.reserve(vocab_size);
}

int32_t Sampler::sample(const Sequence& seq, int64_t position, std::span<float> logits) {
  adjust(seq, position, logits);
  scan_.start(logits);
  // A broken model (NaN, infinity) still gives a token.
  const bool greedy = seq.request->params.temperature < 1e-5 || !std::isfinite(scan_.max());
  const int32_t token = greedy ? scan_.argmax() : draw(seq, position);
  for (; !changes_.empty(); changes_.pop_back())
    logits[changes_.back().id] = changes_.back().before;
  return token;
}

int32_t Sampler::draw(const Sequence& seq, int64_t position) {
  const SamplingParams& params = seq.request->params;
  float floor = -std::numeric_limits<float>::infinity();
  if (params.min_p > 0)
    floor = static_cast<float>(scan_.max() + params.temperature * std::log(params.min_p));
  if (params.top_k > 0 && params.top_k < vocab_size_)
    floor = std::max(floor, scan_.kth_largest(params.top_k));
  return scan_.draw(floor, params.temperature, params.top_p,
                    RandomStream(seq.request->seed, seq.index, position));
}

void Sampler::adjust(const Sequence& seq, int64_t position, std::span<float> logits) {
  const SamplingParams& params = seq.request->params;
  auto set = [&](int32_t id, float value) {
    changes_.push_back({id, logits[id]});
    logits[id] = value;
  };
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  if (seq.matcher) seq.matcher->for_each_forbidden([&](int32_t id) { set(id, kNever); });
  for (const auto& [id, bias] : params.logit_bias) set(id, logits[id] + static_cast<float>(bias));
  if (position - seq.num_prompt_tokens < params.min_tokens &&
      !(seq.matcher && seq.matcher->must_stop()))
    for (const auto* ids : {&params.stop_token_ids, &eos_token_ids_})
      for (int32_t id : *ids) set(id, kNever);
  if (params.repetition_penalty != 1.0 || params.presence_penalty != 0 ||
      params.frequency_penalty != 0)
    apply_penalties(seq, position, logits);
}

// Repetition: https://arxiv.org/abs/1909.05858, over prompt and output. Presence and frequency:
// OpenAI's, over the output.
void Sampler::apply_penalties(const Sequence& seq, int64_t position, std::span<float> logits) {
  const SamplingParams& params = seq.request->params;
  const std::span<const int32_t> all = std::span(seq.token_ids).first(position),
                                 output = all.subspan(seq.num_prompt_tokens);
  if (counts_.empty()) counts_.resize(vocab_size_);
  for (int32_t id : output) ++counts_[id];
  const auto repetition = static_cast<float>(params.repetition_penalty);
  for (int32_t id : all) {
    int32_t& count = counts_[id];
    if (count < 0) continue;  // done with this token
    float& value = logits[id];
    changes_.push_back({id, value});
    if (repetition != 1.0f) value = value > 0 ? value / repetition : value * repetition;
    if (count > 0)
      value -= static_cast<float>(params.frequency_penalty * count + params.presence_penalty);
    count = -1;
  }
  for (int32_t id : all) counts_[id] = 0;
}

PositionLogprobs Sampler::logprobs(std::span<const float> logits, int32_t token, int64_t top_n) {
  scan_.start(logits);
  const double log_sum = scan_.log_sum_exp();
  PositionLogprobs result;
  result.reserve(top_n + 1);
  auto append = [&](int32_t id, int64_t rank) {
    result.push_back({id, static_cast<float>(logits[id] - log_sum), rank});
  };
  append(token, scan_.rank(token));
  int64_t rank = 0;
  for (int32_t id : scan_.best(top_n)) append(id, ++rank);
  return result;
}

}  // namespace nanovllm
