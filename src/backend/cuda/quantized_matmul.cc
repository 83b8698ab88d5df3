#include "backend/cuda/quantized_matmul.h"

#include <algorithm>

#include "nanovllm/error.h"

namespace nanovllm::cuda {

void quantized_linear(Matmul& matmul, const Scratch& scratch, const QuantizedMatrix& w,
                      const void* x, int64_t rows, Element out_type, void* out,
                      cudaStream_t stream) {
  if (rows == 0) return;
  if (rows <= kFewRows) return few_rows_linear(w, x, rows, out_type, out, stream);
  // cuBLASLt takes every matrix to begin at a multiple of 256 bytes, which 128 columns of the
  // output are.
  constexpr int64_t kUnit = 128;
  const int64_t most =
      scratch.bytes / (w.in_features * element_bytes(Element::kBFloat16)) / kUnit * kUnit;
  if (most == 0)
    throw Error("a quantized weight", "has rows of " + std::to_string(w.in_features) +
                                          " elements, more than the backend takes");
  for (int64_t first = 0; first < w.out_features; first += most) {
    const int64_t count = std::min(most, w.out_features - first);
    dequantize(w, first, count, scratch.data, stream);
    matmul.linear(scratch.data, w.in_features, count, x, rows, Element::kBFloat16, out_type,
                  static_cast<std::byte*>(out) + first * element_bytes(out_type), w.out_features,
                  stream);
  }
}

}  // namespace nanovllm::cuda
