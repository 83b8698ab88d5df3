// Weight quantization at load. --quantization int8, int4: 32 weights of one row become quants that
// share a scale. fp8: a row shares one, each weight becomes an 8-bit float.
#pragma once

#include "formats/unpack_block.h"

namespace nanovllm {

inline constexpr int kInt8Largest = 180;  // of 181 levels; docs/kernels.md says why not 256

// scale * q + min with q in 0 .. kInt8Largest, from the smallest weight to the largest.
QuantBlock quantize_int8(const float* weights);
// q - 8 in -8 .. 7, scale and quants chosen for a small squared error.
QuantBlock quantize_int4(const float* weights);

// E4M3 as NVIDIA's hardware has it (https://arxiv.org/abs/2209.05433): four bits of exponent, three
// of mantissa, no infinities, one NaN of each sign. To the nearest, ties to even; beyond the
// largest number to it.
inline constexpr float kFloat8Largest = 448;
uint8_t float_to_float8(float x);
float float8_to_float(uint8_t bits);

}  // namespace nanovllm
