// Weight quantization at load (--quantization int8, int4): 32 weights of one row become quants that
// share a scale.
#pragma once

#include "backend/cpu/unpack_block.h"

namespace nanovllm {

// scale * q + min with q in 0 .. kQ8MinLargest, from the smallest weight to the largest.
QuantBlock quantize_int8(const float* weights);
// q - 8 in -8 .. 7, scale and quants chosen for a small squared error.
QuantBlock quantize_int4(const float* weights);

}  // namespace nanovllm
