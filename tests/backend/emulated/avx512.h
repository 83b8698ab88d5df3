// The AVX-512 and AVX-VNNI intrinsics of the kernels, spelled out as plain loops, so that those
// kernels are tested on machines that have AVX2 only. Intel's Intrinsics Guide is the
// specification.
//
// The functions stand in an unnamed namespace, as the kernels do: there these names are found
// before those of <immintrin.h>. Vectors of 128 and 256 bits, whose instructions the machine has,
// are left to that header. An intrinsic that is missing here is a compile error ("target specific
// option mismatch"): add its loop.
#pragma once

#include <immintrin.h>
#include <stdint.h>

#define NANO_VLLM_NO_UNROLL  // arrays of loops gain nothing by it, and take four times as long to
                             // compile
#define NANO_VLLM_ZMM "+m"   // where 64 bytes lie that an asm statement names

// Some are macros, when the compiler does not optimize or always (clang).
#undef _mm256_dpbusd_epi32
#undef _mm256_dpwssd_epi32
#undef _mm512_cmp_ps_mask
#undef _mm512_cmpeq_epi32_mask
#undef _mm512_cmpgt_epi32_mask
#undef _mm512_cmplt_epi32_mask
#undef _mm512_extractf32x4_ps
#undef _mm512_extractf32x8_ps
#undef _mm512_extracti32x4_epi32
#undef _mm512_extracti32x8_epi32
#undef _mm512_extracti64x4_epi64
#undef _mm512_insertf32x8
#undef _mm512_inserti32x8
#undef _mm512_inserti64x4
#undef _mm512_permute_ps
#undef _mm512_roundscale_ps
#undef _mm512_setr_epi32
#undef _mm512_setr_ps
#undef _mm512_shuffle_epi32
#undef _mm512_shuffle_f32x4
#undef _mm512_shuffle_i32x4
#undef _mm512_shuffle_ps
#undef _mm512_slli_epi16
#undef _mm512_slli_epi32
#undef _mm512_srai_epi16
#undef _mm512_srai_epi32
#undef _mm512_srli_epi16
#undef _mm512_srli_epi32
#undef _mm512_srli_epi64
#undef _mm512_ternarylogic_epi32

namespace emulated {

template <typename T, int kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes)));
};
template <typename T, int kBytes = 64>
using Vector = typename VectorOf<T, kBytes>::type;

typedef Vector<float> F32;
typedef Vector<int8_t> I8;
typedef Vector<uint8_t> U8;
typedef Vector<int16_t> I16;
typedef Vector<uint16_t> U16;
typedef Vector<int32_t> I32;
typedef Vector<uint32_t> U32;
typedef Vector<int64_t> I64;
typedef Vector<uint64_t> U64;

// The vector whose lane i is f(i).
template <typename T, int kBytes = 64, typename F>
inline Vector<T, kBytes> each(F f) {
  Vector<T, kBytes> v;
  for (int i = 0; i < kBytes / static_cast<int>(sizeof(T)); ++i) v[i] = static_cast<T>(f(i));
  return v;
}
template <typename To, typename From>
inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}
template <typename To>
inline To load(const void* p) {
  To to;
  __builtin_memcpy(&to, p, sizeof(to));
  return to;
}
template <typename F>
inline uint16_t mask16(F f) {
  uint16_t mask = 0;
  for (int i = 0; i < 16; ++i) mask = static_cast<uint16_t>(mask | (f(i) ? 1 << i : 0));
  return mask;
}
inline bool compare(float a, float b, int predicate) {
  switch (predicate) {
    case _CMP_EQ_OQ:
      return a == b;
    case _CMP_LT_OS:
    case _CMP_LT_OQ:
      return a < b;
    case _CMP_LE_OS:
    case _CMP_LE_OQ:
      return a <= b;
    case _CMP_UNORD_Q:
      return a != a || b != b;
    case _CMP_NEQ_UQ:
      return a != b;
    case _CMP_ORD_Q:
      return a == a && b == b;
    case _CMP_GE_OS:
    case _CMP_GE_OQ:
      return a >= b;
    case _CMP_GT_OS:
    case _CMP_GT_OQ:
      return a > b;
  }
  __builtin_trap();
}

inline int32_t saturate(int32_t value, int32_t lowest, int32_t highest) {
  return value < lowest ? lowest : value > highest ? highest : value;
}

// The instructions for bfloat16 read denormal numbers as zero, write none, and round to nearest
// even.
inline float flush(float x) {
  const uint32_t u = bits<uint32_t>(x);
  return bits<float>((u & 0x7f800000) == 0 ? u & 0x80000000 : u);
}
inline float of_bfloat16(uint16_t b) { return bits<float>(static_cast<uint32_t>(b) << 16); }
inline uint16_t to_bfloat16(float x) {
  const uint32_t u = bits<uint32_t>(flush(x));
  if (x != x) return static_cast<uint16_t>(u >> 16 | 0x40);
  return static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
// The exact product of two bfloat16 has 16 significant bits, so only the addition rounds.
inline float add_product(float sum, uint16_t a, uint16_t b) {
  return flush(__builtin_fmaf(flush(of_bfloat16(a)), flush(of_bfloat16(b)), flush(sum)));
}

}  // namespace emulated

namespace {

// --- moving

inline __m512 _mm512_loadu_ps(const void* p) { return emulated::load<__m512>(p); }
inline __m512 _mm512_load_ps(const void* p) { return emulated::load<__m512>(p); }
inline __m512i _mm512_loadu_si512(const void* p) { return emulated::load<__m512i>(p); }
inline __m512i _mm512_load_si512(const void* p) { return emulated::load<__m512i>(p); }
inline __m512i _mm512_loadu_epi32(const void* p) { return emulated::load<__m512i>(p); }
inline __m512i _mm512_stream_load_si512(const void* p) { return emulated::load<__m512i>(p); }
inline void _mm512_storeu_ps(void* p, __m512 a) { __builtin_memcpy(p, &a, 64); }
inline void _mm512_store_ps(void* p, __m512 a) { __builtin_memcpy(p, &a, 64); }
inline void _mm512_storeu_si512(void* p, __m512i a) { __builtin_memcpy(p, &a, 64); }
inline void _mm512_store_si512(void* p, __m512i a) { __builtin_memcpy(p, &a, 64); }
inline __m512 _mm512_maskz_loadu_ps(__mmask16 m, const void* p) {
  const float* f = static_cast<const float*>(p);
  return (__m512)emulated::each<float>([&](int i) { return m >> i & 1 ? f[i] : 0.0f; });
}
inline void _mm512_mask_storeu_ps(void* p, __mmask16 m, __m512 a) {
  for (int i = 0; i < 16; ++i)
    if (m >> i & 1) static_cast<float*>(p)[i] = a[i];
}

inline __m512 _mm512_castsi512_ps(__m512i a) { return (__m512)a; }
inline __m512i _mm512_castps_si512(__m512 a) { return (__m512i)a; }
inline __m512 _mm512_castps256_ps512(__m256 a) {
  return (__m512)emulated::each<float>([&](int i) { return a[i & 7]; });
}
inline __m512i _mm512_castsi256_si512(__m256i a) {
  return (__m512i)emulated::each<int64_t>([&](int i) { return a[i & 3]; });
}
inline __m256 _mm512_castps512_ps256(__m512 a) { return emulated::load<__m256>(&a); }
inline __m256i _mm512_castsi512_si256(__m512i a) { return emulated::load<__m256i>(&a); }
inline __m128 _mm512_castps512_ps128(__m512 a) { return emulated::load<__m128>(&a); }
inline __m128i _mm512_castsi512_si128(__m512i a) { return emulated::load<__m128i>(&a); }

inline __m512 _mm512_setzero_ps() { return (__m512)emulated::F32{}; }
inline __m512i _mm512_setzero_si512() { return (__m512i)emulated::I32{}; }
inline __m512 _mm512_set1_ps(float x) {
  return (__m512)emulated::each<float>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi8(char x) {
  return (__m512i)emulated::each<int8_t>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi16(short x) {
  return (__m512i)emulated::each<int16_t>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi32(int x) {
  return (__m512i)emulated::each<int32_t>([&](int) { return x; });
}
inline __m512i _mm512_set1_epi64(long long x) {
  return (__m512i)emulated::each<int64_t>([&](int) { return x; });
}
template <typename... T>
inline __m512i _mm512_setr_epi32(T... x) {
  static_assert(sizeof...(x) == 16);
  return (__m512i)emulated::I32{x...};
}
template <typename... T>
inline __m512 _mm512_setr_ps(T... x) {
  static_assert(sizeof...(x) == 16);
  return (__m512)emulated::F32{x...};
}
inline __m512i _mm512_broadcast_i32x4(__m128i a) {
  return (__m512i)emulated::each<int64_t>([&](int i) { return a[i & 1]; });
}
inline __m512i _mm512_broadcast_i64x4(__m256i a) {
  return (__m512i)emulated::each<int64_t>([&](int i) { return a[i & 3]; });
}
inline __m512i _mm512_broadcastd_epi32(__m128i a) {
  return _mm512_set1_epi32(emulated::load<int32_t>(&a));
}
inline __m512 _mm512_broadcastss_ps(__m128 a) { return _mm512_set1_ps(a[0]); }

inline __m256 _mm512_extractf32x8_ps(__m512 a, int half) {
  return emulated::load<__m256>(reinterpret_cast<const char*>(&a) + 32 * half);
}
inline __m256i _mm512_extracti64x4_epi64(__m512i a, int half) {
  return emulated::load<__m256i>(reinterpret_cast<const char*>(&a) + 32 * half);
}
inline __m256i _mm512_extracti32x8_epi32(__m512i a, int half) {
  return _mm512_extracti64x4_epi64(a, half);
}
inline __m128 _mm512_extractf32x4_ps(__m512 a, int quarter) {
  return emulated::load<__m128>(reinterpret_cast<const char*>(&a) + 16 * quarter);
}
inline __m128i _mm512_extracti32x4_epi32(__m512i a, int quarter) {
  return emulated::load<__m128i>(reinterpret_cast<const char*>(&a) + 16 * quarter);
}
inline __m512 _mm512_insertf32x8(__m512 a, __m256 b, int half) {
  __builtin_memcpy(reinterpret_cast<char*>(&a) + 32 * half, &b, 32);
  return a;
}
inline __m512i _mm512_inserti64x4(__m512i a, __m256i b, int half) {
  __builtin_memcpy(reinterpret_cast<char*>(&a) + 32 * half, &b, 32);
  return a;
}
inline __m512i _mm512_inserti32x8(__m512i a, __m256i b, int half) {
  return _mm512_inserti64x4(a, b, half);
}

// --- float

inline __m512 _mm512_add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 _mm512_div_ps(__m512 a, __m512 b) { return a / b; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return (__m512)emulated::each<float>([&](int i) { return __builtin_fmaf(a[i], b[i], c[i]); });
}
inline __m512 _mm512_fnmadd_ps(__m512 a, __m512 b, __m512 c) {
  return (__m512)emulated::each<float>([&](int i) { return __builtin_fmaf(-a[i], b[i], c[i]); });
}
inline __m512 _mm512_max_ps(__m512 a, __m512 b) {
  return (__m512)emulated::each<float>([&](int i) { return a[i] > b[i] ? a[i] : b[i]; });
}
inline __m512 _mm512_min_ps(__m512 a, __m512 b) {
  return (__m512)emulated::each<float>([&](int i) { return a[i] < b[i] ? a[i] : b[i]; });
}
inline __m512 _mm512_abs_ps(__m512 a) { return (__m512)((emulated::I32)a & 0x7fffffff); }
inline __m512 _mm512_sqrt_ps(__m512 a) {
  return (__m512)emulated::each<float>([&](int i) { return __builtin_sqrtf(a[i]); });
}
inline __m512 _mm512_and_ps(__m512 a, __m512 b) {
  return (__m512)((emulated::I32)a & (emulated::I32)b);
}
inline __m512 _mm512_or_ps(__m512 a, __m512 b) {
  return (__m512)((emulated::I32)a | (emulated::I32)b);
}
inline __m512 _mm512_xor_ps(__m512 a, __m512 b) {
  return (__m512)((emulated::I32)a ^ (emulated::I32)b);
}
// Rounding to an integral value, to nearest even: the only mode the kernels use.
inline __m512 _mm512_roundscale_ps(__m512 a, int mode) {
  if (mode != (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)) __builtin_trap();
  return (__m512)emulated::each<float>([&](int i) { return __builtin_nearbyintf(a[i]); });
}
inline float _mm512_reduce_max_ps(__m512 a) {
  float r = a[0];
  for (int i = 1; i < 16; ++i) r = a[i] > r ? a[i] : r;
  return r;
}
inline float _mm512_reduce_min_ps(__m512 a) {
  float r = a[0];
  for (int i = 1; i < 16; ++i) r = a[i] < r ? a[i] : r;
  return r;
}

// --- int

inline __m512i _mm512_and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i _mm512_or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i _mm512_xor_si512(__m512i a, __m512i b) { return a ^ b; }
inline __m512i _mm512_andnot_si512(__m512i a, __m512i b) { return ~a & b; }
inline __m512i _mm512_and_epi32(__m512i a, __m512i b) { return a & b; }
inline __m512i _mm512_or_epi32(__m512i a, __m512i b) { return a | b; }
inline __m512i _mm512_xor_epi32(__m512i a, __m512i b) { return a ^ b; }
inline __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  __m512i r = {};
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) r |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return r;
}
inline __m512i _mm512_add_epi8(__m512i a, __m512i b) {
  return (__m512i)((emulated::U8)a + (emulated::U8)b);
}
inline __m512i _mm512_sub_epi8(__m512i a, __m512i b) {
  return (__m512i)((emulated::U8)a - (emulated::U8)b);
}
inline __m512i _mm512_add_epi16(__m512i a, __m512i b) {
  return (__m512i)((emulated::U16)a + (emulated::U16)b);
}
inline __m512i _mm512_sub_epi16(__m512i a, __m512i b) {
  return (__m512i)((emulated::U16)a - (emulated::U16)b);
}
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) {
  return (__m512i)((emulated::U32)a + (emulated::U32)b);
}
inline __m512i _mm512_sub_epi32(__m512i a, __m512i b) {
  return (__m512i)((emulated::U32)a - (emulated::U32)b);
}
inline __m512i _mm512_mullo_epi32(__m512i a, __m512i b) {
  return (__m512i)((emulated::U32)a * (emulated::U32)b);
}
inline __m512i _mm512_mullo_epi16(__m512i a, __m512i b) {
  return (__m512i)((emulated::U16)a * (emulated::U16)b);
}
inline __m512i _mm512_max_epi32(__m512i a, __m512i b) {
  const emulated::I32 x = (emulated::I32)a, y = (emulated::I32)b;
  return (__m512i)emulated::each<int32_t>([&](int i) { return x[i] > y[i] ? x[i] : y[i]; });
}
inline __m512i _mm512_min_epi32(__m512i a, __m512i b) {
  const emulated::I32 x = (emulated::I32)a, y = (emulated::I32)b;
  return (__m512i)emulated::each<int32_t>([&](int i) { return x[i] < y[i] ? x[i] : y[i]; });
}
inline __m512i _mm512_slli_epi16(__m512i a, unsigned n) { return (__m512i)((emulated::U16)a << n); }
inline __m512i _mm512_srli_epi16(__m512i a, unsigned n) { return (__m512i)((emulated::U16)a >> n); }
inline __m512i _mm512_srai_epi16(__m512i a, unsigned n) { return (__m512i)((emulated::I16)a >> n); }
inline __m512i _mm512_slli_epi32(__m512i a, unsigned n) { return (__m512i)((emulated::U32)a << n); }
inline __m512i _mm512_srli_epi32(__m512i a, unsigned n) { return (__m512i)((emulated::U32)a >> n); }
inline __m512i _mm512_srai_epi32(__m512i a, unsigned n) { return (__m512i)((emulated::I32)a >> n); }
inline __m512i _mm512_srli_epi64(__m512i a, unsigned n) { return (__m512i)((emulated::U64)a >> n); }
inline __m512i _mm512_sll_epi32(__m512i a, __m128i n) {
  return _mm512_slli_epi32(a, static_cast<unsigned>(n[0]));
}
inline __m512i _mm512_srl_epi32(__m512i a, __m128i n) {
  return _mm512_srli_epi32(a, static_cast<unsigned>(n[0]));
}
inline __m512i _mm512_srlv_epi32(__m512i a, __m512i n) {
  const emulated::U32 x = (emulated::U32)a, s = (emulated::U32)n;
  return (__m512i)emulated::each<uint32_t>([&](int i) { return s[i] < 32 ? x[i] >> s[i] : 0; });
}
inline int _mm512_reduce_add_epi32(__m512i a) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += ((emulated::U32)a)[i];
  return static_cast<int>(sum);
}

// --- masks

inline __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int predicate) {
  return emulated::mask16([&](int i) { return emulated::compare(a[i], b[i], predicate); });
}
inline __mmask16 _mm512_cmpeq_epi32_mask(__m512i a, __m512i b) {
  return emulated::mask16([&](int i) { return ((emulated::I32)a)[i] == ((emulated::I32)b)[i]; });
}
inline __mmask16 _mm512_cmpgt_epi32_mask(__m512i a, __m512i b) {
  return emulated::mask16([&](int i) { return ((emulated::I32)a)[i] > ((emulated::I32)b)[i]; });
}
inline __mmask16 _mm512_cmplt_epi32_mask(__m512i a, __m512i b) {
  return _mm512_cmpgt_epi32_mask(b, a);
}
inline __m512 _mm512_mask_mov_ps(__m512 a, __mmask16 m, __m512 b) {
  return (__m512)emulated::each<float>([&](int i) { return m >> i & 1 ? b[i] : a[i]; });
}
inline __m512 _mm512_maskz_mov_ps(__mmask16 m, __m512 b) {
  return _mm512_mask_mov_ps(_mm512_setzero_ps(), m, b);
}
inline __m512 _mm512_mask_blend_ps(__mmask16 m, __m512 a, __m512 b) {
  return _mm512_mask_mov_ps(a, m, b);
}
inline __m512i _mm512_mask_mov_epi32(__m512i a, __mmask16 m, __m512i b) {
  return (__m512i)_mm512_mask_mov_ps((__m512)a, m, (__m512)b);
}
inline __m512i _mm512_maskz_mov_epi32(__mmask16 m, __m512i b) {
  return _mm512_mask_mov_epi32(_mm512_setzero_si512(), m, b);
}
inline __m512i _mm512_mask_blend_epi32(__mmask16 m, __m512i a, __m512i b) {
  return _mm512_mask_mov_epi32(a, m, b);
}

}  // namespace

#include "backend/emulated/avx512_convert.h"
