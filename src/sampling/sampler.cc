#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace nanovllm {

Sampler::Sampler(int64_t vocab_size) : vocab_size_(vocab_size), scan_(vocab_size) {
  changes_.reserve(vocab_size);
}

int32_t Sampler::sample(const SampleRow& row, std::span<float> logits) {
  adjust(row, logits);
  scan_.start(logits);
  // A broken model (NaN, infinity) still gives a token.
  const bool greedy = row.temperature < 1e-5 || !std::isfinite(scan_.max());
  const int32_t token = greedy ? scan_.argmax() : draw(row);
  for (; !changes_.empty(); changes_.pop_back())
    logits[changes_.back().id] = changes_.back().before;
  return token;
}

int32_t Sampler::draw(const SampleRow& row) {
  float floor = -std::numeric_limits<float>::infinity();
  if (row.min_p > 0)
    floor = static_cast<float>(scan_.max() + row.temperature * std::log(row.min_p));
  if (row.top_k > 0 && row.top_k < vocab_size_)
    floor = std::max(floor, scan_.kth_largest(row.top_k));
  return scan_.draw(floor, row.temperature, row.top_p,
                    RandomStream(row.seed, row.index, row.position));
}

void Sampler::adjust(const SampleRow& row, std::span<float> logits) {
  auto set = [&](int32_t id, float value) {
    changes_.push_back({id, logits[id]});
    logits[id] = value;
  };
  for (size_t word = 0; word < row.allowed.size(); ++word)
    for (int64_t id = static_cast<int64_t>(word) * 32, end = std::min(id + 32, vocab_size_);
         id < end; ++id)
      if (!((row.allowed[word] >> (id % 32)) & 1))
        set(static_cast<int32_t>(id), -std::numeric_limits<float>::infinity());
  for (const LogitBias& b : row.biases) set(b.token_id, logits[b.token_id] + b.bias);
  if (row.has_penalties()) apply_penalties(row, logits);
}

// Repetition: https://arxiv.org/abs/1909.05858, over prompt and output. Presence and frequency:
// OpenAI's, over the output.
void Sampler::apply_penalties(const SampleRow& row, std::span<float> logits) {
  const std::span<const int32_t> all = row.history, output = all.subspan(row.num_prompt_tokens);
  if (counts_.empty()) counts_.resize(vocab_size_);
  for (int32_t id : output) ++counts_[id];
  const auto repetition = static_cast<float>(row.repetition_penalty);
  for (int32_t id : all) {
    int32_t& count = counts_[id];
    if (count < 0) continue;  // done with this token
    float& value = logits[id];
    changes_.push_back({id, value});
    if (repetition != 1.0f) value = value > 0 ? value / repetition : value * repetition;
    if (count > 0)
      value -= static_cast<float>(row.frequency_penalty * count + row.presence_penalty);
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
