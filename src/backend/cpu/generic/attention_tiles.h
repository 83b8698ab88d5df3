// The inner loops of attention: a few query rows against 16 keys, or against 16 dimensions of the
// values, accumulated in registers.
//
// The cache is read through a panel: straight from memory, widened in registers, when few rows
// pass over it; from a float copy in the first-level cache when many do. Both are chains of fused
// multiply-adds over the dimensions (scores) or the keys (outputs) in ascending order, so both
// give the same bits.
#pragma once

#include "backend/cpu/generic/math.h"

namespace {

using nanovllm::KVType;

// Floats between rows of scores: one segment, and a line more so that rows do not meet in the same
// sets of the first-level cache.
constexpr int64_t kScoreStride = nanovllm::kAttentionSegment + 16;

// Element j of 16 words.
template <KVType kType>
inline V word_element(const uint8_t* words, int j) {
  if constexpr (kType == KVType::kFloat32)
    return load(reinterpret_cast<const float*>(words));
  else if constexpr (kType == KVType::kBFloat16)
    return j == 0 ? low_bf16(load_u32(words)) : high_bf16(load_u32(words));
  else
    return signed_byte(load_u32(words), j);
}
// 16 elements that lie side by side.
template <KVType kType>
inline V row_elements(const uint8_t* row, int64_t first) {
  if constexpr (kType == KVType::kFloat32)
    return load(reinterpret_cast<const float*>(row) + first);
  else if constexpr (kType == KVType::kBFloat16)
    return load_bf16(reinterpret_cast<const uint16_t*>(row) + first);
  else
    return load_i8(reinterpret_cast<const int8_t*>(row) + first);
}

// scores[r, 16 p + i] = sum over d of q[r, d] * key i of panel p. A panel is [words][16]; q is
// [kRows][dimensions, zeros up to whole words], q_stride apart; rows of scores are kScoreStride
// apart. Meanwhile as many lines are fetched from `ahead` as are read from the panels, if it is
// given.
template <KVType kType, int kRows, int kPanels, bool kPrefetch>
NANO_VLLM_NOINLINE void score_tile(const uint8_t* const* panels, const uint8_t* const* ahead,
                                   int64_t words, const float* q, int64_t q_stride, float* scores) {
  constexpr int kElements = nanovllm::kv_elements_a_word(kType);
  V acc[kRows][kPanels];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p) acc[r][p] = zero();
  for (int64_t w = 0; w < words; ++w, q += kElements) {
    if (kPrefetch)
      for (int p = 0; p < kPanels; ++p) fetch<64>(ahead[p] + w * 64);
    NANO_VLLM_UNROLL
    for (int j = 0; j < kElements; ++j) {
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const V k = word_element<kType>(panels[p] + w * 64, j);
        NANO_VLLM_UNROLL
        for (int r = 0; r < kRows; ++r) acc[r][p] = fma(k, set1(q[r * q_stride + j]), acc[r][p]);
      }
    }
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p) store(scores + r * kScoreStride + 16 * p, acc[r][p]);
}

// Consecutive keys whose values lie at equal distances; ahead: a panel that is needed soon, or
// null.
struct ValueRun {
  const uint8_t* rows;
  int64_t count;
  const uint8_t* ahead;
};

// total[r, 16 p + i] = total * keep[r] + take[r] * sum over keys j of weights[r, j] * value j's
// dimension `first` + 16 p + i: a segment's sum, merged at once into the rows' totals.
template <KVType kType, int kRows, int kPanels, bool kPrefetch>
NANO_VLLM_NOINLINE void value_tile(const ValueRun* runs, int64_t num_runs, int64_t row_bytes,
                                   int64_t first, const float* weights, const float* keep,
                                   const float* take, float* total, int64_t total_stride) {
  // A key's 16 kPanels dimensions are as many lines of a panel of keys a sixteenth of.
  constexpr int kElements = nanovllm::kv_elements_a_word(kType);
  constexpr int kLines = kPanels > kElements ? kPanels / kElements : 1;
  constexpr int kEvery = kPanels > kElements ? 1 : kElements / kPanels;
  V acc[kRows][kPanels];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r)
    for (int p = 0; p < kPanels; ++p) acc[r][p] = zero();
  for (int64_t run = 0; run < num_runs; ++run) {
    const uint8_t* row = runs[run].rows;
    const int64_t count = runs[run].count;
    const uint8_t* ahead = runs[run].ahead ? runs[run].ahead + first / kElements * 64 : row;
    for (int64_t j = 0; j < count; ++j, row += row_bytes, ++weights) {
      if (kPrefetch && j % kEvery == 0)
        for (int i = 0; i < kLines; ++i, ahead += 64) fetch<64>(ahead);
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const V v = row_elements<kType>(row, first + 16 * p);
        NANO_VLLM_UNROLL
        for (int r = 0; r < kRows; ++r)
          acc[r][p] = fma(v, set1(weights[r * kScoreStride]), acc[r][p]);
      }
    }
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      float* t = total + r * total_stride + 16 * p;
      store(t, fma(acc[r][p], set1(take[r]), mul(load(t), set1(keep[r]))));
    }
  }
}

// Calls f(first panel, Panels<n>) for `count` panels, as many at once as `kRows` rows need for
// enough chains of multiply-adds to hide their latency.
constexpr int panels_at_once(int rows) {
  int panels = 1;
  while (2 * panels * rows <= kChains) panels *= 2;
  return panels;
}
template <int kRows, int kPanels = panels_at_once(kRows), typename F>
inline void each_panels(int64_t first, int64_t count, const F& f) {
  for (; first + kPanels <= count; first += kPanels) f(first, Panels<kPanels>());
  if constexpr (kPanels > 1) each_panels<kRows, kPanels / 2>(first, count, f);
}

// Scores of `rows` (1 .. kTileRows) rows against num_panels panels.
template <KVType kType, bool kPrefetch, int kRows = kTileRows>
inline void score_panels(int64_t rows, const uint8_t* const* panels, const uint8_t* const* ahead,
                         int64_t num_panels, int64_t words, const float* q, int64_t q_stride,
                         float* scores) {
  if constexpr (kRows > 1) {
    if (rows != kRows)
      return score_panels<kType, kPrefetch, kRows - 1>(rows, panels, ahead, num_panels, words, q,
                                                       q_stride, scores);
  }
  each_panels<kRows>(0, num_panels, [&]<int kPanels>(int64_t p, Panels<kPanels>) {
    score_tile<kType, kRows, kPanels, kPrefetch>(panels + p, ahead + p, words, q, q_stride,
                                                 scores + 16 * p);
  });
}

// Outputs of `rows` rows in the dimensions first .. last (a multiple of 16 apart).
template <KVType kType, bool kPrefetch, int kRows = kTileRows>
inline void value_panels(int64_t rows, const ValueRun* runs, int64_t num_runs, int64_t row_bytes,
                         int64_t first, int64_t last, const float* weights, const float* keep,
                         const float* take, float* total, int64_t total_stride) {
  if constexpr (kRows > 1) {
    if (rows != kRows)
      return value_panels<kType, kPrefetch, kRows - 1>(rows, runs, num_runs, row_bytes, first, last,
                                                       weights, keep, take, total, total_stride);
  }
  each_panels<kRows>(0, (last - first) / 16, [&]<int kPanels>(int64_t p, Panels<kPanels>) {
    value_tile<kType, kRows, kPanels, kPrefetch>(runs, num_runs, row_bytes, first + 16 * p, weights,
                                                 keep, take, total + 16 * p, total_stride);
  });
}

}  // namespace
