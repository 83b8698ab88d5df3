// A lane's share of a tile of quantized weights (quantized.h), taken apart in registers.
#pragma once

#include "backend/cuda/launch.cuh"
#include "backend/cuda/quantized.h"

namespace nanovllm::cuda {

// The value of an IEEE half; subnormal ones too.
__device__ __forceinline__ float half_value(unsigned bits) {
  const float scaled = __uint_as_float((bits & 0x8000u) << 16 | (bits & 0x7fffu) << 13);
  return scaled * 0x1p112f;  // the exponents' zeros are 15 and 127
}

template <WeightFormat format>
struct Lane {
  static constexpr int kWords = format == WeightFormat::kInt4 ? 1 : 2;  // of eight quants
  Vector<uint32_t, 2 * kWords> quants;                                  // of two rows
  Vector<uint32_t, 2> scales;  // scale and min of each, where tiles have them

  __device__ __forceinline__ void load_from(const std::byte* tile, int lane) {
    const auto* words = reinterpret_cast<const uint32_t*>(tile);
    quants = load<2 * kWords>(words + lane * 2 * kWords);
    if constexpr (has_group_scales(format))
      scales = load<2>(words + quant_bytes(format) / 4 + lane / 4 * 2);
  }

  // Quant `i` of 0 .. 7, of the upper (0) or lower (1) row, exactly.
  __device__ __forceinline__ float quant(int half, int i) const {
    uint32_t word = quants.v[half * kWords + i / 4 % kWords];
    if constexpr (format == WeightFormat::kInt4) word = (i < 4 ? word : word >> 4) & 0x0f0f0f0fu;
    if constexpr (format == WeightFormat::kFloat8) {
      const uint32_t byte = word >> (i % 4 * 8);
      return __uint_as_float((byte & 0x80u) << 24 | (byte & 0x7fu) << 20) * 0x1p120f;
    } else {
      // In a float of 2^23 the last bits count ones.
      const uint32_t counted =
          __byte_perm(word, 0x4b000000u, 0x7440u | static_cast<unsigned>(i % 4));
      return __uint_as_float(counted) - 0x1p23f;
    }
  }
  // Quants i and i + 1 as two bfloat16, whose eight bits are enough for all of them.
  __device__ __forceinline__ uint32_t pair(int half, int i) const {
    return __byte_perm(__float_as_uint(quant(half, i)), __float_as_uint(quant(half, i + 1)),
                       0x7632u);
  }
  __device__ __forceinline__ float scale(int half) const {
    return half_value(scales.v[half] & 0xffffu);
  }
  __device__ __forceinline__ float min(int half) const { return half_value(scales.v[half] >> 16); }
};

// Of row `r` of the 16 of a row of tiles; 1 where the tiles have scales of their own.
template <WeightFormat format>
__device__ __forceinline__ float row_scale(const std::byte* tile_row, int r) {
  if constexpr (has_group_scales(format))
    return 1;
  else
    return reinterpret_cast<const float*>(tile_row)[r];
}

// The lane's eight weights of its upper or lower row, as floats.
template <WeightFormat format>
__device__ __forceinline__ Vector<float, 8> weights(const Lane<format>& lane, int half,
                                                    float row_scale) {
  Vector<float, 8> w;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if constexpr (has_group_scales(format))
      w.v[i] = fmaf(lane.quant(half, i), lane.scale(half), lane.min(half));
    else
      w.v[i] = lane.quant(half, i) * row_scale;
  }
  return w;
}

// Calls f with the format as a constant.
template <typename F>
void with_format(WeightFormat format, const F& f) {
  switch (format) {
    case WeightFormat::kInt4:
      return f(std::integral_constant<WeightFormat, WeightFormat::kInt4>{});
    case WeightFormat::kInt8:
      return f(std::integral_constant<WeightFormat, WeightFormat::kInt8>{});
    case WeightFormat::kFloat8:
      return f(std::integral_constant<WeightFormat, WeightFormat::kFloat8>{});
    case WeightFormat::kPlain:
      break;
  }
}

}  // namespace nanovllm::cuda
