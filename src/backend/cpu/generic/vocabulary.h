// Scans of one row of logits for the sampler: 64 at a time, so that 2,400 maxima or sums stand for
// a vocabulary of 151,936. The maxima are bound by reading the row, the weights by the arithmetic
// of exp.
#pragma once

#include "backend/cpu/generic/math.h"

namespace {

using nanovllm::BlockSumArgs;
using nanovllm::kVocabularyBlock;

constexpr float kMinusInfinity = -__builtin_inff();

// Block `block` of x [n] where `keeps(index)` says so, minus infinity elsewhere.
template <typename F>
inline void copy_block(const float* x, int64_t n, int64_t block, float* out, const F& keeps) {
  for (int64_t i = 0; i < kVocabularyBlock; ++i) {
    const int64_t index = block * kVocabularyBlock + i;
    out[i] = index < n && keeps(index) ? x[index] : kMinusInfinity;
  }
}

// max(a, b) takes b where a is not a number: NaN counts as minus infinity.
inline float block_maximum(const float* x) {
  V m = set1(kMinusInfinity);
  NANO_VLLM_UNROLL
  for (int i = 0; i < kVocabularyBlock; i += 16) m = max(load(x + i), m);
  return reduce_max(m);
}

void block_maxima(const float* x, int64_t n, float* out) {
  const int64_t full = n / kVocabularyBlock;
  for (int64_t b = 0; b < full; ++b) out[b] = block_maximum(x + b * kVocabularyBlock);
  if (full * kVocabularyBlock < n) {
    float rest[kVocabularyBlock];
    copy_block(x, n, full, rest, [](int64_t) { return true; });
    out[full] = block_maximum(rest);
  }
}

inline V weights_of(V x, V max, V inverse_temperature) {
  return exp(mul(sub(x, max), inverse_temperature));
}

void weights(const float* x, int64_t n, float max, float inverse_temperature, float* out) {
  const V m = set1(max), t = set1(inverse_temperature);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) store(out + i, weights_of(load(x + i), m, t));
  if (i < n) store_first(out + i, weights_of(load_first(x + i, n - i), m, t), n - i);
}

void block_sums(const BlockSumArgs& a, float* out) {
  const V m = set1(a.max), t = set1(a.inverse_temperature);
  for (int64_t b = 0; b < a.num_blocks; ++b) {
    const int64_t begin = a.blocks[b] * int64_t{kVocabularyBlock}, end = begin + kVocabularyBlock;
    const float* x = a.x + begin;
    float floor = end <= a.pivot ? a.floor : a.above_floor, kept[kVocabularyBlock];
    if (end > a.n || (begin < a.pivot && a.pivot < end)) {
      copy_block(a.x, a.n, a.blocks[b], kept,
                 [&](int64_t i) { return a.x[i] >= (i < a.pivot ? a.floor : a.above_floor); });
      x = kept, floor = kMinusInfinity;
    }
    V sum = zero();
    NANO_VLLM_UNROLL
    for (int i = 0; i < kVocabularyBlock; i += 16) {
      const V v = load(x + i);
      sum = add(sum, zero_below(weights_of(v, m, t), v, set1(floor)));
    }
    out[b] = reduce_add(sum);
  }
}

}  // namespace
