// exp, partial loads and what all kernels share, on top of a vec_*.h.
#pragma once

#include "backend/cpu/kernels.h"

// Loops over registers are unrolled so that their arrays become registers.
#if defined(NANO_VLLM_NO_UNROLL)
#define NANO_VLLM_UNROLL
#elif defined(__clang__)
#define NANO_VLLM_UNROLL _Pragma("unroll")
#else
#define NANO_VLLM_UNROLL _Pragma("GCC unroll 16")
#endif

// Compiled once instead of into each of its callers.
#define NANO_VLLM_NOINLINE __attribute__((noinline))

namespace {

// A number of panels known when compiling, as an argument.
template <int kPanels>
struct Panels {};

// Asks memory for so many bytes, by default into the second-level cache.
template <int64_t kBytes, int kLocality = 2>
inline void fetch(const uint8_t* from) {
  NANO_VLLM_UNROLL
  for (int64_t i = 0; i < kBytes; i += 64) __builtin_prefetch(from + i, 0, kLocality);
}

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

// e^x for x <= 0: x = n ln 2 + r with |r| <= ln 2 / 2. Adding 1.5 * 2^23 rounds x / ln 2 to an
// integer in the low bits of the sum. e^r is a polynomial of degree 5 whose first two coefficients
// are 1, so that e^0 is exactly 1, and whose others make the largest relative error least: 2^-23.1,
// with the roundings of the evaluation 2^-22.5. 0 below -87.3, where e^x leaves the normal range.
inline V exp_not_positive(V x) {
  const V magic = set1(12582912.0f);
  const V t = fma(x, set1(1.44269504088896341f), magic);
  const V n = sub(t, magic);
  V r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  V p = set1(0.00831228774f);
  p = fma(p, r, set1(0.0418923013f));
  p = fma(p, r, set1(0.166671231f));
  p = fma(p, r, set1(0.499992162f));
  p = fma(p, r, set1(1.0f));
  p = fma(p, r, set1(1.0f));
  return zero_below(scale_by_power(p, t), x, set1(-87.3f));
}
// e^x for any x; e^88.3 above 88.3, 0 for what is not a number.
inline V exp(V x) { return zero_below(exp_not_positive(min(x, set1(88.3f))), x, set1(-87.3f)); }

}  // namespace
