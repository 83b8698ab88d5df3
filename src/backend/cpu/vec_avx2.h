// Sixteen floats as two AVX2 registers. Names and meaning as in vec_scalar.h.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int kTilePanels = 1;
constexpr int kTileRows = 6;      // 12 accumulators, 2 weights, 1 broadcast: 15 of 16 registers
constexpr int kByteTileRows = 3;  // 6 sums, or 6 of each plane, 2 weights, ones, broadcasts
constexpr int kChains = 4;
constexpr bool kTotalsInRegisters = false;
#if defined(__AVXVNNI__)
constexpr int kRowPanels = 2;
constexpr bool kRowAsks = true;
constexpr bool kNarrowSums = false;
#else
constexpr int kRowPanels = 4;     // a Zen 3 follows four by itself and reads a third more than
constexpr bool kRowAsks = false;  // when it is asked, which fills its queue of misses
constexpr bool kNarrowSums = true;
#endif
constexpr bool kHasPairs = false;

struct V {
  __m256 lo, hi;
};
struct U {
  __m256i lo, hi;
};
struct I {
  __m256i lo, hi;
};
struct N {  // 16-bit sums of two
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

inline __m256 signed_byte_half(__m256i u, int j) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(u, 24 - 8 * j), 24));
}
inline V signed_byte(U u, int j) { return {signed_byte_half(u.lo, j), signed_byte_half(u.hi, j)}; }
inline __m256 load_i8_half(const int8_t* p) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
inline V load_i8(const int8_t* p) { return {load_i8_half(p), load_i8_half(p + 8)}; }
inline __m256i bf16_bits(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_srli_epi32(
      _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q))),
      16);
}
inline void store_bf16(uint16_t* p, V v) {
  // Packing works within 128 bits: it leaves the quarters 0, 2, 1, 3.
  const __m256i packed = _mm256_packus_epi32(bf16_bits(v.lo), bf16_bits(v.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline V swap_pairs(V v) { return {_mm256_permute_ps(v.lo, 0xb1), _mm256_permute_ps(v.hi, 0xb1)}; }
inline V load_twice(const float* p) {
  const __m256i low = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  const __m256i high = _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7);
  const __m256 v = _mm256_loadu_ps(p);
  return {_mm256_permutevar8x32_ps(v, low), _mm256_permutevar8x32_ps(v, high)};
}
inline float reduce_add(V v) {
  const __m256 eight = _mm256_add_ps(v.lo, v.hi);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(V v) {
  const __m256 eight = _mm256_max_ps(v.lo, v.hi);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline __m256i bits_half(__m256i u, int shift, uint32_t mask) {
  const __m256i moved = shift < 0 ? _mm256_slli_epi32(u, -shift) : _mm256_srli_epi32(u, shift);
  return _mm256_and_si256(moved, _mm256_set1_epi32(static_cast<int>(mask)));
}
inline U bits(U u, int shift, uint32_t mask) {
  return {bits_half(u.lo, shift, mask), bits_half(u.hi, shift, mask)};
}
inline U either(U a, U b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
inline void store_u32(void* p, U u) {
  __m256i* q = static_cast<__m256i*>(p);
  _mm256_storeu_si256(q, u.lo);
  _mm256_storeu_si256(q + 1, u.hi);
}
inline V load_u8(const uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline I set1_int(int32_t x) {
  const __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
inline I add_int(I a, I b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
inline I sub_int(I a, I b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
inline I bits_of(V v) { return {_mm256_castps_si256(v.lo), _mm256_castps_si256(v.hi)}; }
inline I divide_by_256(I a) { return {_mm256_srai_epi32(a.lo, 8), _mm256_srai_epi32(a.hi, 8)}; }
inline int32_t reduce_add(I a) {
  const __m256i eight = _mm256_add_epi32(a.lo, a.hi);
  const __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void store_low_bytes(int8_t* p, I a) {
  const __m256i mask = _mm256_set1_epi32(0xff);
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(a.lo, mask), _mm256_and_si256(a.hi, mask)), 0xd8);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline V to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
inline __m256i broadcast_four(const void* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
inline I sum_planes(I high, I low) {
  return {_mm256_add_epi32(_mm256_slli_epi32(high.lo, 8), low.lo),
          _mm256_add_epi32(_mm256_slli_epi32(high.hi, 8), low.hi)};
}
// The same sums. GCC would put the additions of an unrolled loop off until all products are made,
// and spill them.
template <typename Sums>
inline Sums added_now(Sums a) {
  asm("" : "+x"(a.lo), "+x"(a.hi));
  return a;
}
inline I dot_bytes(I acc, U w, const int8_t* x) {
  const __m256i four = broadcast_four(x);
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(acc.lo, w.lo, four), _mm256_dpbusd_avx_epi32(acc.hi, w.hi, four)};
#else
  const __m256i ones = _mm256_set1_epi16(1);
  acc.lo = _mm256_add_epi32(acc.lo, _mm256_madd_epi16(_mm256_maddubs_epi16(w.lo, four), ones));
  acc.hi = _mm256_add_epi32(acc.hi, _mm256_madd_epi16(_mm256_maddubs_epi16(w.hi, four), ones));
  return added_now(acc);
#endif
}
inline N zero_narrow() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline N dot_narrow(N acc, U w, const int8_t* x) {
  const __m256i four = broadcast_four(x);
  acc.lo = _mm256_add_epi16(acc.lo, _mm256_maddubs_epi16(w.lo, four));
  acc.hi = _mm256_add_epi16(acc.hi, _mm256_maddubs_epi16(w.hi, four));
  return added_now(acc);
}
inline __m256i sum_planes_half(__m256i high, __m256i low) {
  return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(256)),
                          _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
}
inline I sum_planes(N high, N low) {
  return {sum_planes_half(high.lo, low.lo), sum_planes_half(high.hi, low.hi)};
}
inline I widened(N sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  return {_mm256_madd_epi16(sums.lo, ones), _mm256_madd_epi16(sums.hi, ones)};
}

inline V dot_pairs(V acc, U, const uint32_t*) { return acc; }  // never called: kHasPairs is false

}  // namespace
