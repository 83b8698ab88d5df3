// Tensor views and data types, shared by the file formats and the backends. Nothing here owns
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nanovllm {

// Element types a checkpoint may hold. The quantized ones are GGUF's block formats.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

const char* dtype_name(DType t);        // "F32", "BF16", "Q4_1", ...
int64_t dtype_block_elements(DType t);  // elements a block holds: 1, 32 or 256
int64_t dtype_block_bytes(DType t);     // bytes of a block
// Bytes of a row of `elements`, which must be a multiple of dtype_block_elements (checked by the
// readers).
inline int64_t dtype_row_bytes(DType t, int64_t elements) {
  return elements / dtype_block_elements(t) * dtype_block_bytes(t);
}

// A tensor as it lies in a file (mmap). Row-major: shape[0] is the slowest dimension; a linear
// layer's weight is [out_features, in_features] and blocks run along in_features. Valid as long as
// the reader that gave it.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> data;  // exactly rows * dtype_row_bytes; not necessarily aligned

  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

}  // namespace nanovllm
