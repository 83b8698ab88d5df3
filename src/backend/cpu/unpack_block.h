// GGUF's block formats, taken apart into unsigned quants, scale and min as the panels keep them
// (panels.h). The formats themselves are described in formats/quantization.cc; their dequantized
// values are the same bit for bit.
#pragma once

#include <cstdint>

#include "backend/tensor.h"

namespace nanovllm {

struct QuantBlock {
  alignas(8) uint8_t q[32] = {};
  float scale = 0, min = 0;               // of the kinds that keep floats
  uint16_t half_scale = 0, half_min = 0;  // of those that keep halves
};

// The panel block (32 elements, Q6_K: 16) that starts at element k of a row.
QuantBlock unpack_block(DType dtype, const std::byte* row, int64_t k);

}  // namespace nanovllm
