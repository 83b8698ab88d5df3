// The register tile: a few rows times 16 columns, accumulated over K in registers. Bound by
// multiply-adds.
#pragma once

#include "backend/cpu/generic/math.h"

namespace {

// acc[r, 0..15] (+)= sum over k of x[r, k] * w[k, 0..15] for kRows rows: the register tile. Starts
// from zero unless `accumulate`. x rows are x_stride apart, acc rows acc_stride.
template <int kRows>
NANO_VLLM_NOINLINE void tile(const float* x, int64_t x_stride, const float* w, int64_t k_end,
                             float* acc, int64_t acc_stride, bool accumulate) {
  V a[kRows];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = accumulate ? load(acc + r * acc_stride) : zero();
  for (int64_t k = 0; k < k_end; ++k) {
    const V wk = load(w + k * 16);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) a[r] = fma(wk, set1(x[r * x_stride + k]), a[r]);
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) store(acc + r * acc_stride, a[r]);
}

template <int kRows>
inline void rest_tile(int64_t rows, const float* x, int64_t x_stride, const float* w, int64_t k_end,
                      float* acc, int64_t acc_stride, bool accumulate) {
  if (rows == kRows) return tile<kRows>(x, x_stride, w, k_end, acc, acc_stride, accumulate);
  if constexpr (kRows > 1)
    rest_tile<kRows - 1>(rows, x, x_stride, w, k_end, acc, acc_stride, accumulate);
}

// The same for any number of rows.
NANO_VLLM_NOINLINE void tiles(int64_t rows, const float* x, int64_t x_stride, const float* w,
                              int64_t k_end, float* acc, int64_t acc_stride, bool accumulate) {
  int64_t r = 0;
  for (; r + kTileRows <= rows; r += kTileRows)
    tile<kTileRows>(x + r * x_stride, x_stride, w, k_end, acc + r * acc_stride, acc_stride,
                    accumulate);
  if (r < rows)
    rest_tile<kTileRows - 1>(rows - r, x + r * x_stride, x_stride, w, k_end, acc + r * acc_stride,
                             acc_stride, accumulate);
}

}  // namespace
