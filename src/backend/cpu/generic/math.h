// Reductions, exp and partial loads on top of a vec_*.h. Every sum has one fixed tree, so that all
// instruction sets agree.
#pragma once

#include "backend/cpu/kernels.h"

#if defined(NANO_VLLM_SCALAR)
#define NANO_VLLM_UNROLL
#elif defined(__clang__)
#define NANO_VLLM_UNROLL _Pragma("unroll")
#else
#define NANO_VLLM_UNROLL _Pragma("GCC unroll 16")
#endif

// Compiled once instead of into each of its callers.
#define NANO_VLLM_NOINLINE __attribute__((noinline))

namespace {

// The first n < 16 floats, zeros behind them.
inline V load_first(const float* p, int64_t n) {
  float lanes[16] = {};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store_first(float* p, V v, int64_t n) {
  float lanes[16];
  store(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

inline float reduce_add(V v) {
  float lanes[16];
  store(lanes, v);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline float reduce_max(V v) {
  float lanes[16];
  store(lanes, v);
  for (int width = 8; width >= 1; width /= 2)
    for (int i = 0; i < width; ++i)
      lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, and the degree 6 Taylor polynomial of e^r, whose
// relative error there is below 2^-22. Adding 1.5 * 2^23 rounds x / ln 2 to an integer in the low
// bits of the sum. 0 below -87.3, where e^x leaves the normal range; e^88.3 above 88.3.
inline V exp(V x) {
  const V lowest = set1(-87.3f);
  const V clamped = min(max(x, lowest), set1(88.3f));
  const V magic = set1(12582912.0f);
  const V t = fma(clamped, set1(1.44269504088896341f), magic);
  const V n = sub(t, magic);
  V r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  V p = set1(1.0f / 720);
  p = fma(p, r, set1(1.0f / 120));
  p = fma(p, r, set1(1.0f / 24));
  p = fma(p, r, set1(1.0f / 6));
  p = fma(p, r, set1(0.5f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return zero_below(scale_by_power(p, t), x, lowest);
}

// bfloat16, rounded to nearest even; NaN stays NaN.
inline uint16_t bfloat16_of(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace
