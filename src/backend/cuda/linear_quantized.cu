// Products of few rows with quantized weights: bound by reading the weights once, at 1.125 bytes
// each (int8), 0.625 (int4) or 1 (fp8) instead of bfloat16's 2.
//
// Tensor cores multiply the quants themselves, which bfloat16 holds exactly, by the activations:
//
//   sum over a group of (q * scale + min) * x  =  scale * sum of q * x  +  min * sum of x
//
// so that a weight costs two or three integer operations and no multiplication of its own; sums are
// float32. A sum over x is a product with ones, for which the tensor cores have time.
//
// A block takes 16 output features. Its eight warps take tiles in turn, and their sums are added in
// the order of the warps: what a row of x gives does not depend on how many others there are. A
// warp asks for two or four tiles before it works on the first, so that a block has 9 to 18
// kilobytes under way; the first are asked for before the kernel before this one has ended.
//
// Activations come from the first- and second-level cache: with 32 rows that is 4 bytes a weight,
// which takes about twice as long as the weights do from memory. More rows dequantize first
// (quantized_matmul.h).
#include "backend/cuda/kernels.h"
#include "backend/cuda/quantized.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 8;

// Eight activations of row n from column k on, as two pairs for each step of mma; zeros past the
// end. whole: the rows are whole tiles, and aligned.
template <bool whole>
__device__ __forceinline__ Vector<uint32_t, 4> activations(const bf16* x, int n, int rows, int k,
                                                           int in) {
  Vector<uint32_t, 4> pairs = {};
  if (n >= rows) return pairs;
  const bf16* from = x + int64_t{n} * in + k;
  if constexpr (whole) {
    pairs = load<4>(reinterpret_cast<const uint32_t*>(from));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      pairs.v[i] = pack(k + 2 * i < in ? to_float(from[2 * i]) : 0.0f,
                        k + 2 * i + 1 < in ? to_float(from[2 * i + 1]) : 0.0f);
  }
  return pairs;
}

// kEights: of rows of x, by which they are taken.
template <WeightFormat format, int kEights, bool whole>
__global__ void __launch_bounds__(kWarps * 32, 2)
    few_rows_kernel(const std::byte* w, const bf16* x, int rows, int in, int out, Element out_type,
                    void* y) {
  __shared__ float partial[kWarps][kEights * 8][kTileRows];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int tiles = (in + kTileColumns - 1) / kTileColumns;
  const std::byte* tile_row = w + blockIdx.x * tile_row_bytes(format, in);
  const std::byte* first_tile = tile_row + header_bytes(format);

  constexpr int kAhead = kEights == 1 ? 4 : 2;
  Lane<format> ahead[kAhead];
  const auto load_tiles = [&](int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
      if (const int tile = first + i * kWarps; tile < tiles)
        ahead[i].load_from(first_tile + tile * tile_bytes(format), lane);
  };
  load_tiles(warp);
  wait_for_previous_kernel();
  let_next_kernel_start();

  // Of rows lane / 4 and + 8 of the tile, columns lane % 4 * 2 and + 1 of each eight rows of x.
  float sums[kEights][4] = {};
  const uint32_t one = 0x3f803f80u, ones[4] = {one, one, one, one};
  for (int first = warp; first < tiles; first += kWarps * kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int tile = first + i * kWarps;
      if (tile >= tiles) break;
      const Lane<format>& mine = ahead[i];
      uint32_t q[2][4];
#pragma unroll
      for (int step = 0; step < 2; ++step)
#pragma unroll
        for (int j = 0; j < 4; ++j) q[step][j] = mine.pair(j % 2, step * 4 + j / 2 * 2);
#pragma unroll
      for (int e = 0; e < kEights; ++e) {
        const auto b =
            activations<whole>(x, e * 8 + lane / 4, rows, tile * kTileColumns + lane % 4 * 8, in);
        if constexpr (has_group_scales(format)) {
          float product[4] = {}, of_x[4] = {};
          mma(product, q[0], b.v[0], b.v[1]);
          mma(product, q[1], b.v[2], b.v[3]);
          mma(of_x, ones, b.v[0], b.v[1]);
          mma(of_x, ones, b.v[2], b.v[3]);
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sums[e][j] =
                fmaf(mine.scale(j / 2), product[j], fmaf(mine.min(j / 2), of_x[j], sums[e][j]));
        } else {
          mma(sums[e], q[0], b.v[0], b.v[1]);
          mma(sums[e], q[1], b.v[2], b.v[3]);
        }
      }
    }
    load_tiles(first + kWarps * kAhead);
  }

#pragma unroll
  for (int e = 0; e < kEights; ++e)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      partial[warp][e * 8 + lane % 4 * 2 + j % 2][lane / 4 + j / 2 * 8] = sums[e][j];
  __syncthreads();
  for (int i = threadIdx.x; i < kEights * 8 * kTileRows; i += kWarps * 32) {
    const int row = i / kTileRows, r = i % kTileRows;
    const int n = static_cast<int>(blockIdx.x) * kTileRows + r;
    if (row >= rows || n >= out) continue;
    float sum = 0;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) sum += partial[from][row][r];
    sum *= row_scale<format>(tile_row, r);
    const int64_t at = int64_t{row} * out + n;
    if (out_type == Element::kFloat32)
      static_cast<float*>(y)[at] = sum;
    else
      static_cast<bf16*>(y)[at] = from_float<bf16>(sum);
  }
}

}  // namespace

void few_rows_linear(const QuantizedMatrix& w, const void* x, int64_t rows, Element out_type,
                     void* out, cudaStream_t stream) {
  const auto run = [&](auto format, auto eights, auto whole) {
    launch(
        few_rows_kernel<decltype(format)::value, decltype(eights)::value, decltype(whole)::value>,
        ceil_div(w.out_features, kTileRows), kWarps * 32, 0, stream, w.data,
        static_cast<const bf16*>(x), rows, w.in_features, w.out_features, out_type, out);
  };
  const auto of_size = [&](auto format, auto eights) {
    w.in_features % kTileColumns == 0 ? run(format, eights, std::true_type{})
                                      : run(format, eights, std::false_type{});
  };
  with_format(w.format, [&](auto format) {
    if (rows <= 8)
      of_size(format, std::integral_constant<int, 1>{});
    else if (rows <= 16)
      of_size(format, std::integral_constant<int, 2>{});
    else
      of_size(format, std::integral_constant<int, kFewRows / 8>{});
  });
}

}  // namespace nanovllm::cuda
