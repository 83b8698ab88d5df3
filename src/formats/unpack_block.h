// GGUF's block formats, taken apart into unsigned quants and scales as the panels keep them
// (panels.h). The formats themselves are described in formats/quantization.cc; their dequantized
// values are the same bit for bit.
#pragma once

#include <cstdint>

#include "backend/tensor.h"

namespace nanovllm {

// 32 weights of one row.
struct QuantBlock {
  alignas(8) uint8_t q[32] = {};
  uint16_t scale = 0, min = 0;  // halves; of the super-block where there is one
  uint8_t factor[2] = {0, 0}, min_factor[2] = {0, 0};  // of the group or the two groups in it
};

// The 32 elements that start at element k, a multiple of 32, of a row.
QuantBlock unpack_block(DType dtype, const std::byte* row, int64_t k);

}  // namespace nanovllm
