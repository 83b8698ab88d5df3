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
  I q[2];
  float scale;
};

// kWords: magnitudes up to 127 * 256, so that both bytes have room. kBytes: up to 127, and two
// neighbours' sum up to what the weights allow, one less for rounding.
template <LinearMode kMode>
inline QuantizedGroup quantize_group(const float* x, int most_neighbours) {
  QuantizedGroup group;
  const V first = load_magnitude(x), second = load_magnitude(x + 16);
  float largest = reduce_max(max(first, second));
  if constexpr (kMode == LinearMode::kWords) {
    group.scale = largest * (1.0f / (127 * 256));
  } else {
    const float largest_pair =
        reduce_max(max(add(first, swap_pairs(first)), add(second, swap_pairs(second))));
    const float by_pair = largest_pair / static_cast<float>(most_neighbours - 1);
    const float by_one = largest * (1.0f / 127);
    group.scale = by_pair > by_one ? by_pair : by_one;
    largest = largest_pair;
  }
  if (!(largest <= 3.4e38f)) {  // which the result shall show
    group.scale = largest;
    group.q[0] = group.q[1] = set1_int(0);
    return group;
  }
  const float inverse = group.scale > 1e-30f ? 1 / group.scale : 0.0f;
  // Adding 1.5 * 2^23 rounds to the nearest integer, which is then in the low bits.
  for (int i = 0; i < 2; ++i)
    group.q[i] = sub_int(bits_of(fma(load(x + i * 16), set1(inverse), set1(12582912.0f))),
                         set1_int(0x4b400000));
  return group;
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
      const QuantizedGroup group = quantize_group<kMode>(x, a.most_neighbours);
      alignas(64) int8_t high[kQuantGroup], low[kQuantGroup];
      for (int i = 0; i < 2; ++i) {
        const I q = group.q[i];
        store_low_bytes(high + i * 16, kWords ? divide_by_256(add_int(q, set1_int(128))) : q);
        if constexpr (kWords) store_low_bytes(low + i * 16, q);  // q - 256 * high
      }
      const int32_t sum_low = reduce_add(group.q[0]), sum_high = reduce_add(group.q[1]);
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

// [k / 2][rows] pairs of bfloat16, the earlier step in the low half.
inline void prepare_pairs(const LinearArgs& a, int64_t row, int64_t rows, uint32_t* to) {
  for (int64_t k = 0; k < a.k; k += 16, to += 8 * rows) {
    const int64_t steps = a.k - k < 16 ? a.k - k : 16;
    for (int64_t r = 0; r < rows; ++r) {
      const float* x = a.x + (row + r) * a.x_stride + k;
      alignas(32) uint32_t pairs[8];
      store_bf16(reinterpret_cast<uint16_t*>(pairs), steps < 16 ? load_first(x, steps) : load(x));
      for (int64_t pair = 0; pair < (steps + 1) / 2; ++pair) to[pair * rows + r] = pairs[pair];
    }
  }
}

}  // namespace
