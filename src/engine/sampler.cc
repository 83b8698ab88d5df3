#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace nanovllm {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// NaN compares false with everything, so a broken model still gives a token.
int32_t argmax(std::span<const float> values) {
  int32_t best = 0;
  float best_value = kMinusInfinity;
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] > best_value) best_value = values[i], best = static_cast<int32_t>(i);
  return best;
}

// splitmix64 (https://prng.di.unimi.it/splitmix64.c), used as a hash: the draw of one token needs
// no generator state.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

double uniform(uint64_t seed, int index, int64_t position) {  // [0, 1)
  return static_cast<double>(
             mix(mix(mix(seed) + static_cast<uint64_t>(index)) + static_cast<uint64_t>(position)) >>
             11) *
         0x1p-53;
}

}  // namespace

Sampler::Sampler(int64_t vocab_size, std::vector<int32_t> eos_token_ids)
    : eos_token_ids_(std::move(eos_token_ids)),
      values_(vocab_size),
      select_(vocab_size),
      counts_(vocab_size) {
  candidates_.reserve(vocab_size);
}

int32_t Sampler::sample(const Sequence& seq, std::span<const float> logits) {
  const SamplingParams& params = seq.request->params;
  logits = adjust(seq, logits);
  if (params.temperature < 1e-5) return argmax(logits);
  collect_candidates(params, logits);
  if (params.top_p < 1.0) keep_top_p(params.top_p);
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  if (!(total > 0) || !std::isfinite(total)) return argmax(logits);  // NaN or infinite logits
  double left = uniform(seq.request->seed, seq.index, seq.num_tokens()) * total;
  for (const Candidate& c : candidates_)
    if ((left -= c.weight) < 0) return c.id;
  // Rounding left a crumb: the last candidate that can be drawn at all.
  for (size_t i = candidates_.size(); i-- > 0;)
    if (candidates_[i].weight > 0) return candidates_[i].id;
  return argmax(logits);
}

std::span<const float> Sampler::adjust(const Sequence& seq, std::span<const float> logits) {
  const SamplingParams& params = seq.request->params;
  const bool masks_stops = seq.num_output_tokens() < params.min_tokens;
  const bool penalizes = params.repetition_penalty != 1.0 || params.presence_penalty != 0 ||
                         params.frequency_penalty != 0;
  if (!masks_stops && !penalizes && params.logit_bias.empty()) return logits;
  std::ranges::copy(logits, values_.begin());
  for (const auto& [id, bias] : params.logit_bias) values_[id] += static_cast<float>(bias);
  if (masks_stops) {
    for (int32_t id : params.stop_token_ids) values_[id] = kMinusInfinity;
    for (int32_t id : eos_token_ids_) values_[id] = kMinusInfinity;
  }
  if (penalizes) apply_penalties(seq);
  return values_;
}

// Repetition: https://arxiv.org/abs/1909.05858, over prompt and output. Presence and frequency:
// OpenAI's, over the output.
void Sampler::apply_penalties(const Sequence& seq) {
  const SamplingParams& params = seq.request->params;
  const std::span<const int32_t> all(seq.token_ids), output = all.subspan(seq.num_prompt_tokens);
  for (int32_t id : output) ++counts_[id];
  const auto repetition = static_cast<float>(params.repetition_penalty);
  for (int32_t id : all) {
    int32_t& count = counts_[id];
    if (count < 0) continue;  // done with this token
    float& value = values_[id];
    if (repetition != 1.0f) value = value > 0 ? value / repetition : value * repetition;
    if (count > 0)
      value -= static_cast<float>(params.frequency_penalty * count + params.presence_penalty);
    count = -1;
  }
  for (int32_t id : all) counts_[id] = 0;
}

void Sampler::collect_candidates(const SamplingParams& params, std::span<const float> logits) {
  const float max = logits[argmax(logits)];
  float threshold = kMinusInfinity;
  if (params.min_p > 0)
    threshold = static_cast<float>(max + params.temperature * std::log(params.min_p));
  if (params.top_k > 0 && params.top_k < static_cast<int64_t>(logits.size())) {
    std::transform(logits.begin(), logits.end(), select_.begin(),
                   [](float x) { return std::isnan(x) ? kMinusInfinity : x; });
    const auto kth = select_.begin() + (params.top_k - 1);
    std::nth_element(select_.begin(), kth, select_.end(), std::greater<float>());
    threshold = std::max(threshold, *kth);
  }
  candidates_.clear();
  const auto inverse_temperature = static_cast<float>(1.0 / params.temperature);
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] >= threshold)
      candidates_.push_back(
          {std::exp((logits[i] - max) * inverse_temperature), static_cast<int32_t>(i)});
}

// Keeps the smallest set of most likely candidates that has at least top_p of the mass (equal
// weights: smaller ids first). Bisection by partition: each round halves the range in which the set
// ends.
void Sampler::keep_top_p(double top_p) {
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  const double target = top_p * total;
  auto more_likely = [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  };
  auto begin = candidates_.begin(), end = candidates_.end();  // the set ends in (begin, end]
  double mass = 0;                                            // of everything before begin
  while (end - begin > 1) {
    const auto middle = begin + (end - begin) / 2;
    std::nth_element(begin, middle, end, more_likely);
    const double upper = std::accumulate(begin, middle, 0.0,
                                         [](double m, const Candidate& c) { return m + c.weight; });
    if (mass + upper >= target) {
      end = middle;
    } else {
      mass += upper;
      begin = middle;
    }
  }
  candidates_.erase(end, candidates_.end());
}

PositionLogprobs Sampler::logprobs(std::span<const float> logits, int32_t token, int64_t top_n) {
  const float max = logits[argmax(logits)];
  double sum = 0;
  for (float x : logits) sum += std::exp(x - max);
  const double log_sum = static_cast<double>(max) + std::log(sum);
  auto entry = [&](int32_t id, int64_t rank) {
    return TokenLogprob{id, static_cast<float>(logits[id] - log_sum), rank};
  };
  PositionLogprobs result;
  result.reserve(top_n + 1);
  result.push_back(
      entry(token, 1 + std::ranges::count_if(logits, [&](float x) { return x > logits[token]; })));

  // A heap of the best top_n so far, its worst on top.
  auto better = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::vector<int32_t> best;
  best.reserve(top_n + 1);
  for (size_t i = 0; top_n > 0 && i < logits.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const bool full = static_cast<int64_t>(best.size()) == top_n;
    if (full && !better(id, best.front())) continue;
    best.push_back(id);
    std::push_heap(best.begin(), best.end(), better);
    if (full) {
      std::pop_heap(best.begin(), best.end(), better);
      best.pop_back();
    }
  }
  std::ranges::sort(best, better);
  for (size_t i = 0; i < best.size(); ++i)
    result.push_back(entry(best[i], static_cast<int64_t>(i) + 1));
  return result;
}

}  // namespace nanovllm
