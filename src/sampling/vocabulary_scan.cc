#include "sampling/vocabulary_scan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "backend/cpu/dispatch.h"

namespace nanovllm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

VocabularyScan::VocabularyScan(int64_t vocab_size)
    : kernels_(choose_kernels()),
      maxima_((vocab_size + kVocabularyBlock - 1) / kVocabularyBlock),
      select_(vocab_size) {
  blocks_.reserve(maxima_.size());
  sums_.reserve(maxima_.size());
  ends_.reserve(maxima_.size());
}

void VocabularyScan::start(std::span<const float> logits) {
  logits_ = logits;
  kernels_.block_maxima(logits.data(), static_cast<int64_t>(logits.size()), maxima_.data());
  max_ = *std::ranges::max_element(maxima_);
}

std::span<const float> VocabularyScan::block(int64_t b) const {
  const size_t begin = b * kVocabularyBlock;
  return logits_.subspan(begin, std::min<size_t>(kVocabularyBlock, logits_.size() - begin));
}

int32_t VocabularyScan::argmax() const {
  if (max_ == -kInfinity) return 0;
  const int64_t b = std::ranges::find(maxima_, max_) - maxima_.begin();
  return static_cast<int32_t>(b * kVocabularyBlock +
                              (std::ranges::find(block(b), max_) - block(b).begin()));
}

float VocabularyScan::kth_largest(int64_t k) {
  if (k > static_cast<int64_t>(logits_.size())) return -kInfinity;
  if (k <= static_cast<int64_t>(maxima_.size())) {
    std::ranges::copy(maxima_, select_.begin());
    return *kth_between(k, nth(k, static_cast<int64_t>(maxima_.size())), kInfinity);
  }
  // More than there are blocks: every 32nd logit tells between which values the k-th largest lies,
  // four standard deviations to either side, unless the row has a pattern.
  int64_t samples = 0;
  for (size_t i = 0; i < logits_.size(); i += 32)
    select_[samples++] = std::isnan(logits_[i]) ? -kInfinity : logits_[i];
  const auto spread = static_cast<int64_t>(4 * std::sqrt(k / 32.0)) + 1;
  const int64_t low = k / 32 + 1 + spread, high = k / 32 - spread;
  const float lower = low <= samples ? nth(low, samples) : -kInfinity;
  const float upper = high >= 1 ? nth(high, samples) : kInfinity;
  const auto found = kth_between(k, lower, upper);
  return found ? *found : *kth_between(k, -kInfinity, kInfinity);
}

// The k-th largest of the first n values of select_, which it reorders.
float VocabularyScan::nth(int64_t k, int64_t n) {
  const auto kth = select_.begin() + (k - 1);
  std::nth_element(select_.begin(), kth, select_.begin() + n, std::greater<float>());
  return *kth;
}

// The k-th largest logit, if it lies in [lower, upper].
std::optional<float> VocabularyScan::kth_between(int64_t k, float lower, float upper) {
  int64_t count = 0, above = 0;
  for (size_t b = 0; b < maxima_.size(); ++b) {
    if (!(maxima_[b] >= lower)) continue;
    for (const float x :
         block(b)) {  // each goes to the next free place, which then moves on or not
      select_[count] = x;
      count += x >= lower && x <= upper;
      above += x > upper;
    }
  }
  if (k <= above) return std::nullopt;
  if (k - above <= count) return nth(k - above, count);
  if (lower == -kInfinity) return lower;  // the others are NaN
  return std::nullopt;
}

int64_t VocabularyScan::rank(int32_t token) const {
  const float logit = logits_[token];
  int64_t rank = 1;
  for (size_t b = 0; b < maxima_.size(); ++b)
    if (maxima_[b] > logit)
      rank += std::ranges::count_if(block(b), [&](float x) { return x > logit; });
  return rank;
}

std::span<const int32_t> VocabularyScan::best(int64_t n) {
  n = std::min(n, static_cast<int64_t>(logits_.size()));
  best_.clear();
  if (n <= 0) return best_;
  const float nth = kth_largest(n);
  // Of the tokens equal to the n-th only the first are wanted, and there may be many.
  auto append = [&](auto wanted) {
    for (size_t b = 0; b < maxima_.size(); ++b) {
      if (maxima_[b] < nth) continue;
      for (size_t i = 0; i < block(b).size(); ++i) {
        if (static_cast<int64_t>(best_.size()) == n) return;
        if (wanted(block(b)[i])) best_.push_back(static_cast<int32_t>(b * kVocabularyBlock + i));
      }
    }
  };
  append([&](float x) { return x > nth; });
  std::ranges::sort(best_, [&](int32_t a, int32_t b) {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  });
  append([&](float x) { return x == nth; });
  return best_;
}

double VocabularyScan::log_sum_exp() {
  inverse_temperature_ = 1;
  blocks_.resize(maxima_.size());
  for (size_t b = 0; b < blocks_.size(); ++b) blocks_[b] = static_cast<int32_t>(b);
  return max_ + std::log(sum_before({-kInfinity, static_cast<int64_t>(logits_.size())}));
}

int32_t VocabularyScan::draw(float floor, double temperature, double top_p, RandomStream random) {
  inverse_temperature_ = static_cast<float>(1 / temperature);
  blocks_.clear();
  for (size_t b = 0; b < maxima_.size(); ++b)
    if (maxima_[b] >= floor) blocks_.push_back(static_cast<int32_t>(b));
  return top_p < 1 ? draw_nucleus(floor, top_p, random) : draw_by_rejection(floor, random);
}

int32_t VocabularyScan::draw_by_rejection(float floor, RandomStream& random) {
  sums_.resize(blocks_.size());
  for (size_t i = 0; i < blocks_.size(); ++i) sums_[i] = maxima_[blocks_[i]];
  kernels_.weights(sums_.data(), static_cast<int64_t>(sums_.size()), max_, inverse_temperature_,
                   sums_.data());
  const double total = accumulate();
  while (true) {
    const size_t picked = pick_block(random.next() * total);
    const double place = random.next() * kVocabularyBlock;
    const auto tokens = block(blocks_[picked]);
    const auto i = static_cast<size_t>(place);
    if (i >= tokens.size() || !(tokens[i] >= floor)) continue;
    float weight = 0;
    kernels_.weights(&tokens[i], 1, max_, inverse_temperature_, &weight);
    if ((place - static_cast<double>(i)) * sums_[picked] < weight)
      return static_cast<int32_t>(blocks_[picked] * kVocabularyBlock + i);
  }
}

int32_t VocabularyScan::draw_nucleus(float floor, double top_p, RandomStream& random) {
  Pivot pivot = {floor, static_cast<int64_t>(logits_.size())};
  double mass = sum_before(pivot);
  const double target = top_p * mass;
  while (true) {
    const int32_t token = pick_token(pivot, random.next() * mass);
    pivot = {logits_[token], token};
    std::erase_if(blocks_, [&](int32_t b) { return maxima_[b] < pivot.logit; });
    mass = sum_before(pivot);
    if (mass < target) return token;
  }
}

// The mass of the tokens of blocks_ before the pivot.
double VocabularyScan::sum_before(const Pivot& pivot) {
  sums_.resize(blocks_.size());
  kernels_.block_sums({logits_.data(), static_cast<int64_t>(logits_.size()), blocks_.data(),
                       static_cast<int64_t>(blocks_.size()), max_, inverse_temperature_,
                       pivot.logit, std::nextafter(pivot.logit, kInfinity), pivot.id},
                      sums_.data());
  return accumulate();
}

double VocabularyScan::accumulate() {
  ends_.resize(sums_.size());
  double sum = 0;
  for (size_t i = 0; i < sums_.size(); ++i) ends_[i] = sum += sums_[i];
  return sum;
}

// The block in which the running sum passes `at`.
size_t VocabularyScan::pick_block(double at) const {
  auto it = std::ranges::upper_bound(ends_, at);
  // Rounding may leave `at` at the very end: the last block with any mass.
  if (it == ends_.end()) it = std::ranges::lower_bound(ends_, ends_.back());
  return it - ends_.begin();
}

// The token before the pivot at which the running sum of their weights passes `at`.
int32_t VocabularyScan::pick_token(const Pivot& pivot, double at) {
  const size_t picked = pick_block(at);
  const int64_t begin = int64_t{blocks_[picked]} * kVocabularyBlock;
  const auto tokens = block(blocks_[picked]);
  float weights[kVocabularyBlock];
  kernels_.weights(tokens.data(), static_cast<int64_t>(tokens.size()), max_, inverse_temperature_,
                   weights);
  double left = at - (picked ? ends_[picked - 1] : 0);
  int64_t last = begin;
  for (size_t i = 0; i < tokens.size() && left >= 0; ++i) {
    const int64_t id = begin + static_cast<int64_t>(i);
    const bool before = tokens[i] > pivot.logit || (tokens[i] == pivot.logit && id < pivot.id);
    if (!before || weights[i] == 0) continue;
    left -= weights[i];
    last = id;  // the last one that can be drawn, if rounding leaves a crumb
  }
  return static_cast<int32_t>(last);
}

}  // namespace nanovllm
