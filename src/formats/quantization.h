// GGUF's block formats, dequantized to float32 by plain loops: the readable specification of the
// kernels' packed weights and the tests' oracle. Layouts follow ggml's ggml-common.h /
// ggml-quants.c.
#pragma once

#include "backend/tensor.h"

namespace nanovllm {

float half_to_float(uint16_t bits);   // IEEE binary16
uint16_t float_to_half(float value);  // round to nearest even; infinity above 65519, NaN stays NaN
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);  // round to nearest even; NaN stays NaN

// Dequantizes `elements` (a multiple of the block) from src (dtype_row_bytes of them, any
// alignment) to dst. Every DType.
void dequantize_row(DType type, const std::byte* src, float* dst, int64_t elements);

}  // namespace nanovllm
