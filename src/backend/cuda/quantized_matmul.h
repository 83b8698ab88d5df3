// Products with quantized weights. Few rows are multiplied by the quants (linear_quantized.cu),
// which reads every weight once. Of more rows the arithmetic is what takes time: then the weights
// are written to a buffer as bfloat16, a slab of rows after the other, and cuBLASLt does the rest.
// A slab is read again while it is in the second-level cache.
//
// So what a row gives depends on whether the step has more than kFewRows rows, and above that on
// how many, as cuBLASLt's choice does.
#pragma once

#include <cstdint>

#include "backend/cuda/kernels.h"
#include "backend/cuda/matmul.h"
#include "backend/cuda/scratch.h"

namespace nanovllm::cuda {

// out[t, n] = sum_k x[t, k] * w[n, k].  x [rows, in_features] in bfloat16, out [rows, out_features]
// of out_type. Throws Error where scratch does not hold 128 rows of w.
void quantized_linear(Matmul& matmul, const Scratch& scratch, const QuantizedMatrix& w,
                      const void* x, int64_t rows, Element out_type, void* out,
                      cudaStream_t stream);

}  // namespace nanovllm::cuda
