// Slices of tensors: the same bytes of the file, seen by one rank.
#include "backend/tensor.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

void check_range(const TensorView& whole, int64_t first, int64_t count, int64_t size) {
  if (first < 0 || count < 1 || first > size - count)
    throw Error("tensor '" + whole.name + "'", "has no part " + std::to_string(first) + " to " +
                                                   std::to_string(first + count) + " of " +
                                                   std::to_string(size));
}

}  // namespace

TensorView slice_rows(const TensorView& whole, int64_t first, int64_t count) {
  check_range(whole, first, count, whole.shape.empty() ? 0 : whole.shape[0]);
  TensorView part = whole;
  part.shape[0] = count;
  part.data = whole.data.subspan(static_cast<size_t>(first * whole.stride()),
                                 static_cast<size_t>(part.data_bytes()));
  return part;
}

TensorView slice_columns(const TensorView& matrix, int64_t first, int64_t count) {
  if (matrix.shape.size() != 2) throw Error("tensor '" + matrix.name + "'", "is not a matrix");
  check_range(matrix, first, count, matrix.shape[1]);
  const int64_t block = dtype_block_elements(matrix.dtype);
  if (first % block != 0 || count % block != 0)
    throw Error("tensor '" + matrix.name + "'",
                "is stored in blocks of " + std::to_string(block) +
                    " and cannot be cut at column " +
                    std::to_string(first % block != 0 ? first : first + count));
  TensorView part = matrix;
  part.shape[1] = count;
  part.row_stride = matrix.stride();
  part.data = matrix.data.subspan(static_cast<size_t>(dtype_row_bytes(matrix.dtype, first)),
                                  static_cast<size_t>(part.data_bytes()));
  return part;
}

}  // namespace nanovllm
