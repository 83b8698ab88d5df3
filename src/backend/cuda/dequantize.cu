// Quantized weights back to bfloat16 or float32, by warps that take a tile each. Every weight is
// rounded once, from q * scale + min in one operation.
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantized.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 8;

// to[r, k] for the rows of tiles from w on, `rows` of the matrix.
template <WeightFormat format>
__global__ void dequantize_kernel(const std::byte* w, int rows, int in, bf16* to) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int lane = threadIdx.x % 32;
  const int tile = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  if (tile * kTileColumns >= in) return;
  const std::byte* tile_row = w + blockIdx.x * tile_row_bytes(format, in);
  Lane<format> mine;
  mine.load_from(tile_row + header_bytes(format) + tile * tile_bytes(format), lane);
  const int k = tile * kTileColumns + lane % 4 * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = lane / 4 + half * 8, row = static_cast<int>(blockIdx.x) * kTileRows + r;
    if (row >= rows) continue;
    const Vector<float, 8> values = weights(mine, half, row_scale<format>(tile_row, r));
    Vector<bf16, 8> narrow;
#pragma unroll
    for (int i = 0; i < 8; ++i) narrow.v[i] = from_float<bf16>(values.v[i]);
    bf16* const at = to + int64_t{row} * in + k;
    if (in % 8 == 0 && k + 8 <= in) {
      store<8>(at, narrow);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (k + i < in) at[i] = narrow.v[i];
    }
  }
}

// A thread takes eight columns.
template <WeightFormat format>
__global__ void embed_kernel(const std::byte* table, int64_t first_id, int64_t table_rows,
                             const int32_t* ids, const int32_t* drawn, int dim, float* out) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int64_t token = blockIdx.x;
  const int k = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (k >= dim) return;
  const int32_t named = ids[token];
  const int64_t id = (named < 0 ? drawn[-1 - named] : named) - first_id;
  Vector<float, 8> values = {};
  if (id >= 0 && id < table_rows) {
    const int r = static_cast<int>(id % kTileRows);
    const std::byte* tile_row = table + id / kTileRows * tile_row_bytes(format, dim);
    Lane<format> lane;
    lane.load_from(tile_row + header_bytes(format) + k / kTileColumns * tile_bytes(format),
                   r % 8 * 4 + k % kTileColumns / 8);
    const float scale = row_scale<format>(tile_row, r);
    values = r < 8 ? weights(lane, 0, scale) : weights(lane, 1, scale);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (k + i < dim) out[token * dim + k + i] = values.v[i];
}

}  // namespace

void dequantize(const QuantizedMatrix& w, int64_t first_row, int64_t rows, void* to,
                cudaStream_t stream) {
  const dim3 grid(ceil_div(rows, kTileRows), ceil_div(w.in_features, kTileColumns * kWarps));
  const auto run = [&](auto format) {
    constexpr WeightFormat f = decltype(format)::value;
    launch(dequantize_kernel<f>, grid, kWarps * 32, 0, stream,
           w.data + first_row / kTileRows * tile_row_bytes(f, w.in_features), rows, w.in_features,
           static_cast<bf16*>(to));
  };
  with_format(w.format, run);
}

void embed_quantized(const QuantizedMatrix& table, int64_t first_id, const int32_t* ids,
                     const int32_t* drawn, int64_t tokens, float* out, cudaStream_t stream) {
  if (tokens == 0) return;
  constexpr int kThreads = 128;
  const dim3 grid(static_cast<unsigned>(tokens), ceil_div(table.in_features, kThreads * 8));
  const auto run = [&](auto format) {
    launch(embed_kernel<decltype(format)::value>, grid, kThreads, 0, stream, table.data, first_id,
           table.out_features, ids, drawn, table.in_features, out);
  };
  with_format(table.format, run);
}

}  // namespace nanovllm::cuda
