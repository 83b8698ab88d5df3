// The rows of x that a product takes, arranged once for all its panels: in tiles of a few rows with
// K slowest, so that a register tile reads them from front to back. (Rows where they are would be
// read a multiple of 4096 bytes apart, which the first-level cache keeps in the same few lines.)
#pragma once

#include "backend/cpu/generic/math.h"

namespace {

using nanovllm::activation_group_bytes;
using nanovllm::kQuantGroup;
using nanovllm::LinearArgs;
using nanovllm::LinearMode;

inline V load_magnitude(const float* x) {
  const V v = load(x);
  return max(v, sub(zero(), v));
}

// A group of 32 steps of one row as integers that share a scale.
struct QuantizedGroup {
  alignas(64) int32_t q[kQuantGroup];
  float scale;
};

// kWords: magnitudes up to 127 * 256, so that both bytes have room. kBytes: up to 127, and two
// neighbours' sum up to what the weights allow, one less for rounding.
template <LinearMode kMode>
inline void quantize_group(const float* x, int most_neighbours, QuantizedGroup* out) {
  float largest = reduce_max(max(load_magnitude(x), load_magnitude(x + 16)));
  if constexpr (kMode == LinearMode::kWords) {
    out->scale = largest * (1.0f / (127 * 256));
  } else {
    float pair[kQuantGroup / 2];
    for (int i = 0; i < kQuantGroup / 2; ++i)
      pair[i] = __builtin_fabsf(x[2 * i]) + __builtin_fabsf(x[2 * i + 1]);
    const float largest_pair = reduce_max(load(pair));
    const float by_pair = largest_pair / static_cast<float>(most_neighbours - 1);
    const float by_one = largest * (1.0f / 127);
    out->scale = by_pair > by_one ? by_pair : by_one;
    largest = largest_pair;
  }
  const bool finite = largest <= 3.4e38f;
  if (!finite) out->scale = largest;  // which the result shall show
  const float inverse = finite && out->scale > 1e-30f ? 1 / out->scale : 0.0f;
  // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits.
  constexpr int32_t kMagicBits = 0x4b400000;
  float rounded[kQuantGroup];
  for (int i = 0; i < kQuantGroup; i += 16)
    store(rounded + i, fma(load(x + i), set1(inverse), set1(12582912.0f)));
  __builtin_memcpy(out->q, rounded, sizeof rounded);
  for (int i = 0; i < kQuantGroup; ++i) out->q[i] = finite ? out->q[i] - kMagicBits : 0;
}

// A tile's group in memory, for `rows` rows: bytes [8][rows][4] (kWords: the high bytes, then the
// low ones, both signed), then [rows] each of
//   float scale; float sum * scale of all, of the first and of the second half;
//   int32 -8 * sum, -128 * sum.
template <LinearMode kMode>
inline void prepare_groups(const LinearArgs& a, int64_t row, int64_t rows, int8_t* to) {
  constexpr bool kWords = kMode == LinearMode::kWords;
  alignas(64) float last[kQuantGroup];
  for (int64_t k = 0; k < a.k; k += kQuantGroup, to += rows * activation_group_bytes(kMode)) {
    float* floats = reinterpret_cast<float*>(to + rows * kQuantGroup * (kWords ? 2 : 1));
    int32_t* centres = reinterpret_cast<int32_t*>(floats + 4 * rows);
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = a.x + (row + r) * a.x_stride + k;
      if (a.k - k < kQuantGroup) {
        for (int i = 0; i < kQuantGroup; ++i) last[i] = i < a.k - k ? x[i] : 0.0f;
        x = last;
      }
      QuantizedGroup group;
      quantize_group<kMode>(x, a.most_neighbours, &group);
      int8_t high[kQuantGroup], low[kQuantGroup];
      int32_t sum_low = 0, sum_high = 0;
      for (int i = 0; i < kQuantGroup; ++i) {
        const int32_t q = group.q[i];
        high[i] = static_cast<int8_t>(kWords ? (q + 128) >> 8 : q);
        low[i] = static_cast<int8_t>(q & 0xff);  // q - 256 * high
      }
      for (int i = 0; i < kQuantGroup / 2; ++i) {
        sum_low += group.q[i];
        sum_high += group.q[i + kQuantGroup / 2];
      }
      for (int four = 0; four < kQuantGroup / 4; ++four) {
        __builtin_memcpy(to + (four * rows + r) * 4, high + four * 4, 4);
        if constexpr (kWords)
          __builtin_memcpy(to + rows * kQuantGroup + (four * rows + r) * 4, low + four * 4, 4);
      }
      const int32_t sum = sum_low + sum_high;
      floats[r] = group.scale;
      floats[rows + r] = static_cast<float>(sum) * group.scale;
      floats[2 * rows + r] = static_cast<float>(sum_low) * group.scale;
      floats[3 * rows + r] = static_cast<float>(sum_high) * group.scale;
      centres[r] = -8 * sum;
      centres[rows + r] = -128 * sum;
    }
  }
}

// [k][rows] floats.
inline void prepare_floats(const LinearArgs& a, int64_t row, int64_t rows, float* to) {
  const float* x = a.x + row * a.x_stride;
  for (int64_t k = 0; k < a.k; ++k)
    for (int64_t r = 0; r < rows; ++r) to[k * rows + r] = x[r * a.x_stride + k];
}

inline uint32_t bfloat16_of(float x) {
  uint16_t bits[16];
  store_bf16(bits, set1(x));
  return bits[0];
}

// [k / 2][rows] pairs of bfloat16, the earlier step in the low half.
inline void prepare_pairs(const LinearArgs& a, int64_t row, int64_t rows, uint32_t* to) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = a.x + (row + r) * a.x_stride;
    for (int64_t k = 0; k < a.k; k += 2) {
      const uint32_t high = k + 1 < a.k ? bfloat16_of(x[k + 1]) : 0;
      to[k / 2 * rows + r] = bfloat16_of(x[k]) | high << 16;
    }
  }
}

}  // namespace
