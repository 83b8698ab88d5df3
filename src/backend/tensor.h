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

// A tensor as it lies in a file (mmap), or a slice of one. Row-major: shape[0] is the slowest
// dimension; a linear layer's weight is [out_features, in_features] and blocks run along
// in_features. Valid as long as the reader that gave it.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  // From the first row's beginning to the last one's end, so exactly rows * dtype_row_bytes where
  // the rows lie side by side; not necessarily aligned.
  std::span<const std::byte> data;
  int64_t row_stride = 0;  // bytes from a row's beginning to the next one's; 0: side by side

  int64_t num_elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
  int64_t row_bytes() const {
    return shape.empty() || shape[0] == 0 ? 0 : dtype_row_bytes(dtype, num_elements() / shape[0]);
  }
  int64_t stride() const { return row_stride ? row_stride : row_bytes(); }
  int64_t data_bytes() const {  // what data must hold
    return shape.empty() || shape[0] == 0 ? 0 : (shape[0] - 1) * stride() + row_bytes();
  }
};

// Rows, and columns of a matrix, first .. first + count. Columns are cut between blocks. No data is
// touched. Throws Error for what the tensor does not have.
TensorView slice_rows(const TensorView& whole, int64_t first, int64_t count);
TensorView slice_columns(const TensorView& matrix, int64_t first, int64_t count);

}  // namespace nanovllm
