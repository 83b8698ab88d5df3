// Attention on tensor cores: what the kernels for prompts and for decoding share. Sixteen query
// rows of one kv head (a row is a token and one of the heads of the group) are the rows of a 16 x 8
// tile that a warp keeps in registers, keys or dimensions its columns. Lane i holds of each tile
// the elements (i / 4, i % 4 * 2), the next one, and the two eight rows below them: `upper` and
// `lower` row in what follows.
//
// The softmax is computed as the keys come (https://arxiv.org/abs/2205.14135): a row keeps its
// largest score, the sum of exp(score - largest) and the output for that, and scales both down when
// a larger score comes. Scores are in base 2, because that is what the hardware's exponential
// takes.
#pragma once

#include "backend/cuda/cache.cuh"

namespace nanovllm::cuda {

constexpr float kLog2E = 1.4426950408889634f;

// Where a unit of 16 bytes of a row of `dim` bfloat16 lies in shared memory. Units are permuted
// within a row, so that one unit of eight neighbouring rows, which ldmatrix reads at once, lies in
// all 32 banks. Where rows begin in turning banks already, fewer bits have to be changed: with 96
// dimensions every second row begins in the same bank, with 80 every fourth.
template <int dim>
__device__ __forceinline__ bf16* unit_address(bf16* rows, int row, int unit) {
  constexpr int units = dim / 8;
  static_assert(units % 2 == 0);
  const int turn = units % 8 == 0 ? row % 8 : units % 4 == 0 ? row / 2 % 4 : row / 4 % 2;
  return rows + row * dim + (unit ^ turn) * 8;
}

// The state of a warp's sixteen rows.
template <int dim>
struct AttentionRows {
  float output[dim / 8][4];
  float largest[2], sum[2];  // of the upper and the lower row; sum is this lane's share

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < dim / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) output[i][j] = 0;
    largest[0] = largest[1] = -INFINITY;
    sum[0] = sum[1] = 0;
  }

  // Takes `keys` keys: their scores by q (fragments) and the rows of k, then the rows of v, both in
  // shared memory. visible(row, key): whether the upper (0) or lower (1) row sees the key; asked
  // only if `masked`.
  template <int keys, typename Visible>
  __device__ __forceinline__ void take(const uint32_t (&q)[dim / 16][4], bf16* k, bf16* v,
                                       float scale, bool masked, const Visible& visible) {
    const int lane = threadIdx.x % 32;
    float scores[keys / 8][4];
#pragma unroll
    for (int i = 0; i < keys / 8; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[i][j] = 0;
#pragma unroll
    for (int d = 0; d < dim / 16; ++d) {
#pragma unroll
      for (int i = 0; i < keys / 16; ++i) {
        uint32_t b[4];  // keys 16 i to + 7 and + 8 to + 15, each for dimensions 16 d to + 7 and + 8
                        // to + 15
        load_matrices(
            b, unit_address<dim>(k, i * 16 + lane / 16 * 8 + lane % 8, d * 2 + lane / 8 % 2));
        mma(scores[2 * i], q[d], b[0], b[1]);
        mma(scores[2 * i + 1], q[d], b[2], b[3]);
      }
    }

    float before[2] = {largest[0], largest[1]};
#pragma unroll
    for (int i = 0; i < keys / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& s = scores[i][j];
        s = masked && !visible(j / 2, i * 8 + lane % 4 * 2 + j % 2) ? -INFINITY : s * scale;
        largest[j / 2] = fmaxf(largest[j / 2], s);
      }
    }
    float base[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(kAllLanes, largest[r], 1));
      largest[r] = fmaxf(largest[r], __shfl_xor_sync(kAllLanes, largest[r], 2));
      base[r] = largest[r] == -INFINITY ? 0 : largest[r];  // nothing seen yet: all weights are 0
      const float fade = exp2(before[r] - base[r]);
      sum[r] *= fade;
#pragma unroll
      for (int i = 0; i < dim / 8; ++i) {
        output[i][2 * r] *= fade;
        output[i][2 * r + 1] *= fade;
      }
    }
#pragma unroll
    for (int i = 0; i < keys / 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        scores[i][j] = exp2(scores[i][j] - base[j / 2]);
        sum[j / 2] += scores[i][j];
      }
    }

#pragma unroll
    for (int i = 0; i < keys / 16; ++i) {
      // The scores of two tiles of eight keys are laid out as sixteen columns of a left factor are.
      const float(&x)[4] = scores[2 * i], (&y)[4] = scores[2 * i + 1];
      const uint32_t weights[4] = {pack(x[0], x[1]), pack(x[2], x[3]), pack(y[0], y[1]),
                                   pack(y[2], y[3])};
#pragma unroll
      for (int d = 0; d < dim / 16; ++d) {
        uint32_t b[4];  // dimensions 16 d to + 7, of keys 16 i to + 7 and + 8 to + 15; then
                        // dimensions + 8 to + 15
        load_matrices_transposed(b, unit_address<dim>(v, i * 16 + lane % 16, d * 2 + lane / 16));
        mma(output[2 * d], weights, b[0], b[1]);
        mma(output[2 * d + 1], weights, b[2], b[3]);
      }
    }
  }

  // Each row's whole sum, for all its lanes.
  __device__ __forceinline__ void finish() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
    }
  }
};

// The fragments of sixteen query rows in shared memory.
template <int dim>
__device__ __forceinline__ void load_queries(uint32_t (&q)[dim / 16][4], bf16* rows) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int d = 0; d < dim / 16; ++d)
    load_matrices(q[d], unit_address<dim>(rows, lane % 16, d * 2 + lane / 16));
}

}  // namespace nanovllm::cuda
