// Sixteen floats as two AVX2 registers. Names and meaning as in vec_scalar.h.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int kTileRows = 6;  // 12 accumulators, 2 weights, 1 broadcast: 15 of 16 registers

struct V {
  __m256 lo, hi;
};
struct U {
  __m256i lo, hi;
};

inline V load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, V v) {
  _mm256_storeu_ps(p, v.lo);
  _mm256_storeu_ps(p + 8, v.hi);
}
inline V set1(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline V zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V add(V a, V b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline V sub(V a, V b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline V mul(V a, V b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline V div(V a, V b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline V fma(V a, V b, V c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline V max(V a, V b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline V min(V a, V b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline V zero_below(V value, V x, V bound) {
  return {_mm256_and_ps(value.lo, _mm256_cmp_ps(x.lo, bound.lo, _CMP_GE_OQ)),
          _mm256_and_ps(value.hi, _mm256_cmp_ps(x.hi, bound.hi, _CMP_GE_OQ))};
}
inline __m256 scale_by_power_half(__m256 p, __m256 t) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23)));
}
inline V scale_by_power(V p, V t) {
  return {scale_by_power_half(p.lo, t.lo), scale_by_power_half(p.hi, t.hi)};
}
inline __m256 load_bf16_half(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline V load_bf16(const uint16_t* p) { return {load_bf16_half(p), load_bf16_half(p + 8)}; }
inline V load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline U load_u32(const void* p) {
  const __m256i* q = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline V low_bf16(U u) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(u.lo, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(u.hi, 16))};
}
inline V high_bf16(U u) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(u.lo, mask)),
          _mm256_castsi256_ps(_mm256_and_si256(u.hi, mask))};
}
inline V field(U u, int shift, uint32_t mask) {
  const __m256i m = _mm256_set1_epi32(static_cast<int>(mask));
  return {_mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(u.lo, shift), m)),
          _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(u.hi, shift), m))};
}

}  // namespace
