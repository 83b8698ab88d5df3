// The second half of avx512.h, which includes it: conversions, shuffles and dot products.
#pragma once

namespace {

// --- conversions

inline __m512 _mm512_cvtepi32_ps(__m512i a) {
  return (__m512)emulated::each<float>([&](int i) { return ((emulated::I32)a)[i]; });
}
// To nearest even; what does not fit becomes the smallest integer.
inline __m512i _mm512_cvtps_epi32(__m512 a) {
  return (__m512i)emulated::each<int32_t>([&](int i) {
    const float r = __builtin_nearbyintf(a[i]);
    return r >= -0x1p31f && r < 0x1p31f ? static_cast<int32_t>(r) : INT32_MIN;
  });
}
inline __m512i _mm512_cvttps_epi32(__m512 a) {
  return (__m512i)emulated::each<int32_t>([&](int i) {
    return a[i] >= -0x1p31f && a[i] < 0x1p31f ? static_cast<int32_t>(a[i]) : INT32_MIN;
  });
}
inline __m512 _mm512_cvtph_ps(__m256i a) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_cvtph_ps(_mm256_castsi256_si128(a))),
                            _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1)), 1);
}
inline __m512i _mm512_cvtepu16_epi32(__m256i a) {
  const auto x = (emulated::Vector<uint16_t, 32>)a;
  return (__m512i)emulated::each<int32_t>([&](int i) { return x[i]; });
}
inline __m512i _mm512_cvtepi16_epi32(__m256i a) {
  const auto x = (emulated::Vector<int16_t, 32>)a;
  return (__m512i)emulated::each<int32_t>([&](int i) { return x[i]; });
}
inline __m512i _mm512_cvtepu8_epi32(__m128i a) {
  const auto x = (emulated::Vector<uint8_t, 16>)a;
  return (__m512i)emulated::each<int32_t>([&](int i) { return x[i]; });
}
inline __m512i _mm512_cvtepi8_epi32(__m128i a) {
  const auto x = (emulated::Vector<int8_t, 16>)a;
  return (__m512i)emulated::each<int32_t>([&](int i) { return x[i]; });
}
inline __m512i _mm512_cvtepu8_epi16(__m256i a) {
  const auto x = (emulated::Vector<uint8_t, 32>)a;
  return (__m512i)emulated::each<int16_t>([&](int i) { return x[i]; });
}
inline __m512i _mm512_cvtepi8_epi16(__m256i a) {
  const auto x = (emulated::Vector<int8_t, 32>)a;
  return (__m512i)emulated::each<int16_t>([&](int i) { return x[i]; });
}
inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
  return (__m256i)emulated::each<uint16_t, 32>([&](int i) { return ((emulated::U32)a)[i]; });
}
inline __m128i _mm512_cvtepi32_epi8(__m512i a) {
  return (__m128i)emulated::each<uint8_t, 16>([&](int i) { return ((emulated::U32)a)[i]; });
}
inline __m128i _mm512_cvtsepi32_epi8(__m512i a) {
  return (__m128i)emulated::each<int8_t, 16>(
      [&](int i) { return emulated::saturate(((emulated::I32)a)[i], -128, 127); });
}

// --- shuffles. Those without "var" work inside each of the four quarters.

inline __m512 _mm512_permutexvar_ps(__m512i index, __m512 a) {
  return (__m512)emulated::each<float>([&](int i) { return a[((emulated::I32)index)[i] & 15]; });
}
inline __m512i _mm512_permutexvar_epi32(__m512i index, __m512i a) {
  return (__m512i)_mm512_permutexvar_ps(index, (__m512)a);
}
inline __m512i _mm512_permutexvar_epi64(__m512i index, __m512i a) {
  return (__m512i)emulated::each<int64_t>([&](int i) { return a[index[i] & 7]; });
}
inline __m512i _mm512_permutexvar_epi16(__m512i index, __m512i a) {
  return (__m512i)emulated::each<int16_t>(
      [&](int i) { return ((emulated::I16)a)[((emulated::I16)index)[i] & 31]; });
}
inline __m512 _mm512_permutex2var_ps(__m512 a, __m512i index, __m512 b) {
  return (__m512)emulated::each<float>([&](int i) {
    const int from = ((emulated::I32)index)[i] & 31;
    return from < 16 ? a[from] : b[from - 16];
  });
}
inline __m512i _mm512_permutex2var_epi32(__m512i a, __m512i index, __m512i b) {
  return (__m512i)_mm512_permutex2var_ps((__m512)a, index, (__m512)b);
}
inline __m512i _mm512_permutex2var_epi16(__m512i a, __m512i index, __m512i b) {
  return (__m512i)emulated::each<int16_t>([&](int i) {
    const int from = ((emulated::I16)index)[i] & 63;
    return from < 32 ? ((emulated::I16)a)[from] : ((emulated::I16)b)[from - 32];
  });
}
inline __m512 _mm512_permute_ps(__m512 a, int order) {
  return (__m512)emulated::each<float>(
      [&](int i) { return a[i / 4 * 4 + (order >> i % 4 * 2 & 3)]; });
}
inline __m512 _mm512_shuffle_ps(__m512 a, __m512 b, int order) {
  return (__m512)emulated::each<float>(
      [&](int i) { return (i % 4 < 2 ? a : b)[i / 4 * 4 + (order >> i % 4 * 2 & 3)]; });
}
inline __m512i _mm512_shuffle_epi32(__m512i a, int order) {
  return (__m512i)_mm512_permute_ps((__m512)a, order);
}
inline __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int order) {
  return (__m512)emulated::each<float>(
      [&](int i) { return (i < 8 ? a : b)[(order >> i / 4 * 2 & 3) * 4 + i % 4]; });
}
inline __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int order) {
  return (__m512i)_mm512_shuffle_f32x4((__m512)a, (__m512)b, order);
}
inline __m512i _mm512_shuffle_epi8(__m512i a, __m512i index) {
  return (__m512i)emulated::each<uint8_t>([&](int i) {
    const uint8_t from = ((emulated::U8)index)[i];
    return from & 0x80 ? 0 : ((emulated::U8)a)[i / 16 * 16 + (from & 15)];
  });
}
inline __m512 _mm512_unpacklo_ps(__m512 a, __m512 b) {
  return (__m512)emulated::each<float>(
      [&](int i) { return (i & 1 ? b : a)[i / 4 * 4 + i % 4 / 2]; });
}
inline __m512 _mm512_unpackhi_ps(__m512 a, __m512 b) {
  return (__m512)emulated::each<float>(
      [&](int i) { return (i & 1 ? b : a)[i / 4 * 4 + 2 + i % 4 / 2]; });
}
inline __m512i _mm512_unpacklo_epi32(__m512i a, __m512i b) {
  return (__m512i)_mm512_unpacklo_ps((__m512)a, (__m512)b);
}
inline __m512i _mm512_unpackhi_epi32(__m512i a, __m512i b) {
  return (__m512i)_mm512_unpackhi_ps((__m512)a, (__m512)b);
}
inline __m512i _mm512_unpacklo_epi64(__m512i a, __m512i b) {
  return (__m512i)emulated::each<int64_t>([&](int i) { return (i & 1 ? b : a)[i / 2 * 2]; });
}
inline __m512i _mm512_unpackhi_epi64(__m512i a, __m512i b) {
  return (__m512i)emulated::each<int64_t>([&](int i) { return (i & 1 ? b : a)[i / 2 * 2 + 1]; });
}
inline __m512i _mm512_unpacklo_epi16(__m512i a, __m512i b) {
  return (__m512i)emulated::each<int16_t>(
      [&](int i) { return ((emulated::I16)(i & 1 ? b : a))[i / 8 * 8 + i % 8 / 2]; });
}
inline __m512i _mm512_unpackhi_epi16(__m512i a, __m512i b) {
  return (__m512i)emulated::each<int16_t>(
      [&](int i) { return ((emulated::I16)(i & 1 ? b : a))[i / 8 * 8 + 4 + i % 8 / 2]; });
}
inline __m512i _mm512_unpacklo_epi8(__m512i a, __m512i b) {
  return (__m512i)emulated::each<int8_t>(
      [&](int i) { return ((emulated::I8)(i & 1 ? b : a))[i / 16 * 16 + i % 16 / 2]; });
}
inline __m512i _mm512_unpackhi_epi8(__m512i a, __m512i b) {
  return (__m512i)emulated::each<int8_t>(
      [&](int i) { return ((emulated::I8)(i & 1 ? b : a))[i / 16 * 16 + 8 + i % 16 / 2]; });
}

}  // namespace

namespace emulated {

// Dot products of neighbouring elements into 32-bit sums, for vectors of any width.

// Pairs of int16.
template <typename V>
inline V dot_pairs(V sum, V a, V b) {
  constexpr int kBytes = sizeof(V);
  const auto s = (Vector<uint32_t, kBytes>)sum;
  const auto x = (Vector<int16_t, kBytes>)a, y = (Vector<int16_t, kBytes>)b;
  return (V)each<uint32_t, kBytes>([&](int i) {
    return s[i] + static_cast<uint32_t>(x[2 * i] * y[2 * i]) +
           static_cast<uint32_t>(x[2 * i + 1] * y[2 * i + 1]);
  });
}
// Fours of uint8 times int8.
template <typename V>
inline V dot_fours(V sum, V a, V b) {
  constexpr int kBytes = sizeof(V);
  const auto s = (Vector<uint32_t, kBytes>)sum;
  const auto x = (Vector<uint8_t, kBytes>)a;
  const auto y = (Vector<int8_t, kBytes>)b;
  return (V)each<uint32_t, kBytes>([&](int i) {
    int32_t dot = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) dot += x[j] * y[j];
    return s[i] + static_cast<uint32_t>(dot);
  });
}

}  // namespace emulated

namespace {

inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
  return emulated::dot_pairs(_mm512_setzero_si512(), a, b);
}
inline __m512i _mm512_maddubs_epi16(__m512i a, __m512i b) {
  const emulated::U8 x = (emulated::U8)a;
  const emulated::I8 y = (emulated::I8)b;
  return (__m512i)emulated::each<int16_t>([&](int i) {
    return emulated::saturate(x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1], -32768, 32767);
  });
}

// AVX-512 VNNI, AVX-VNNI.
inline __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  return emulated::dot_pairs(sum, a, b);
}
inline __m256i _mm256_dpwssd_epi32(__m256i sum, __m256i a, __m256i b) {
  return emulated::dot_pairs(sum, a, b);
}
inline __m256i _mm256_dpwssd_avx_epi32(__m256i sum, __m256i a, __m256i b) {
  return emulated::dot_pairs(sum, a, b);
}
inline __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  return emulated::dot_fours(sum, a, b);
}
inline __m256i _mm256_dpbusd_epi32(__m256i sum, __m256i a, __m256i b) {
  return emulated::dot_fours(sum, a, b);
}
inline __m256i _mm256_dpbusd_avx_epi32(__m256i sum, __m256i a, __m256i b) {
  return emulated::dot_fours(sum, a, b);
}

// AVX-512 BF16. The dot product adds the odd element's product first, then the even one's.
inline __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const emulated::U16 x = (emulated::U16)a, y = (emulated::U16)b;
  return (__m512)emulated::each<float>([&](int i) {
    const float odd = emulated::add_product(sum[i], x[2 * i + 1], y[2 * i + 1]);
    return emulated::add_product(odd, x[2 * i], y[2 * i]);
  });
}
inline __m512bh _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  return (__m512bh)emulated::each<uint16_t>(
      [&](int i) { return emulated::to_bfloat16(i < 16 ? low[i] : high[i - 16]); });
}
inline __m256bh _mm512_cvtneps_pbh(__m512 a) {
  return (__m256bh)emulated::each<uint16_t, 32>([&](int i) { return emulated::to_bfloat16(a[i]); });
}

}  // namespace
