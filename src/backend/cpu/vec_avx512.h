// Sixteen floats as one AVX-512 register (F, BW, DQ, VL). Names and meaning as in vec_scalar.h.
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace {

// Of 32 registers: 24 accumulators, 2 weights, 1 broadcast. With bytes: 12 sums, 12 totals, 2
// weights, a scale and a min.
constexpr int kTilePanels = 2;
constexpr int kTileRows = 12;
constexpr int kByteTileRows = 6;
constexpr int kRowPanels = 2;
constexpr bool kRowAsks = true;
constexpr int kChains = 8;
constexpr bool kTotalsInRegisters = true;
#if defined(__AVX512VNNI__)
constexpr bool kNarrowSums = false;
#else
constexpr bool kNarrowSums = true;
#endif
#if defined(__AVX512BF16__)
constexpr bool kHasPairs = true;
#else
constexpr bool kHasPairs = false;
#endif

struct V {
  __m512 v;
};
struct U {
  __m512i v;
};
struct I {
  __m512i v;
};
struct N {  // 16-bit sums of two
  __m512i v;
};

inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, V a) { _mm512_storeu_ps(p, a.v); }
inline V set1(float x) { return {_mm512_set1_ps(x)}; }
inline V zero() { return {_mm512_setzero_ps()}; }
inline V add(V a, V b) { return {_mm512_add_ps(a.v, b.v)}; }
inline V sub(V a, V b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline V mul(V a, V b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline V div(V a, V b) { return {_mm512_div_ps(a.v, b.v)}; }
inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline V max(V a, V b) { return {_mm512_max_ps(a.v, b.v)}; }
inline V min(V a, V b) { return {_mm512_min_ps(a.v, b.v)}; }
inline V zero_below(V value, V x, V bound) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, bound.v, _CMP_GE_OQ), value.v)};
}
inline V scale_by_power(V p, V t) {
  return {_mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p.v), _mm512_slli_epi32(_mm512_castps_si512(t.v), 23)))};
}
inline V load_bf16(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
inline V load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline U load_u32(const void* p) { return {_mm512_loadu_si512(p)}; }
inline V low_bf16(U u) { return {_mm512_castsi512_ps(_mm512_slli_epi32(u.v, 16))}; }
inline V high_bf16(U u) {
  return {
      _mm512_castsi512_ps(_mm512_and_si512(u.v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}
inline V field(U u, int shift, uint32_t mask) {
  const __m512i shifted = _mm512_srl_epi32(u.v, _mm_cvtsi32_si128(shift));
  return {_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(static_cast<int>(mask))))};
}

inline V signed_byte(U u, int j) {
  const __m512i shifted = _mm512_sll_epi32(u.v, _mm_cvtsi32_si128(24 - 8 * j));
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(shifted, 24))};
}
inline V load_i8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline void store_bf16(uint16_t* p, V v) {
  const __m512i bits = _mm512_castps_si512(v.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i chosen =
      _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v.v, v.v, _CMP_UNORD_Q), quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16)));
}
inline V swap_pairs(V v) { return {_mm512_permute_ps(v.v, 0xb1)}; }
inline V load_twice(const float* p) {
  const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  return {_mm512_permutexvar_ps(pairs, _mm512_castps256_ps512(_mm256_loadu_ps(p)))};
}
inline float reduce_add(V v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(V v) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline U bits(U u, int shift, uint32_t mask) {
  const __m512i moved = shift < 0 ? _mm512_sll_epi32(u.v, _mm_cvtsi32_si128(-shift))
                                  : _mm512_srl_epi32(u.v, _mm_cvtsi32_si128(shift));
  return {_mm512_and_si512(moved, _mm512_set1_epi32(static_cast<int>(mask)))};
}
inline U either(U a, U b) { return {_mm512_or_si512(a.v, b.v)}; }
inline void store_u32(void* p, U u) { _mm512_storeu_si512(p, u.v); }
inline V load_u8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
inline I set1_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I add_int(I a, I b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I sub_int(I a, I b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline I bits_of(V v) { return {_mm512_castps_si512(v.v)}; }
inline I divide_by_256(I a) { return {_mm512_srai_epi32(a.v, 8)}; }
inline int32_t reduce_add(I a) {
  const __m256i eight =
      _mm256_add_epi32(_mm512_extracti64x4_epi64(a.v, 0), _mm512_extracti64x4_epi64(a.v, 1));
  const __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void store_low_bytes(int8_t* p, I a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
inline V to_float(I a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline __m512i broadcast_four(const void* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
inline I sum_planes(I high, I low) {
  return {_mm512_add_epi32(_mm512_slli_epi32(high.v, 8), low.v)};
}
// As in vec_avx2.h. A test that emulates these registers has none and says "+m".
#if !defined(NANO_VLLM_ZMM)
#define NANO_VLLM_ZMM "+v"
#endif
template <typename Sums>
inline Sums added_now(Sums a) {
  asm("" : NANO_VLLM_ZMM(a.v));
  return a;
}
inline I dot_bytes(I acc, U w, const int8_t* x) {
#if defined(__AVX512VNNI__)
  return {_mm512_dpbusd_epi32(acc.v, w.v, broadcast_four(x))};
#else
  const __m512i sums = _mm512_maddubs_epi16(w.v, broadcast_four(x));
  return added_now(I{_mm512_add_epi32(acc.v, _mm512_madd_epi16(sums, _mm512_set1_epi16(1)))});
#endif
}
inline N zero_narrow() { return {_mm512_setzero_si512()}; }
inline N dot_narrow(N acc, U w, const int8_t* x) {
  return added_now(N{_mm512_add_epi16(acc.v, _mm512_maddubs_epi16(w.v, broadcast_four(x)))});
}
inline I sum_planes(N high, N low) {
  return {_mm512_add_epi32(_mm512_madd_epi16(high.v, _mm512_set1_epi16(256)),
                           _mm512_madd_epi16(low.v, _mm512_set1_epi16(1)))};
}
inline I widened(N sums) { return {_mm512_madd_epi16(sums.v, _mm512_set1_epi16(1))}; }
#if defined(__AVX512BF16__)
inline V dot_pairs(V acc, U w, const uint32_t* x) {
  return {_mm512_dpbf16_ps(acc.v, reinterpret_cast<__m512bh>(w.v),
                           reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(*x))))};
}
#else
inline V dot_pairs(V acc, U, const uint32_t*) { return acc; }  // never called: kHasPairs is false
#endif

}  // namespace
