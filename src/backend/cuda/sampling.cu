// Draws a token of each row: one block of threads a row. Bound by latency: each phase reads a few
// thousand values.
#include "backend/cuda/sampling.cuh"
#include "sampling/random_stream.h"

namespace nanovllm::cuda {
namespace {

// Tokens that come before (logit, id): of a larger logit, or an equal one and a smaller id.
struct Pivot {
  float logit;
  int id;
  __device__ __forceinline__ bool is_after(float x, int i) const {
    return x > logit || (x == logit && i < id);
  }
};

// Draws from one row: all methods are called by all threads of the block, and give each the same.
struct Draw {
  RowScan scan;
  float* sums;  // of the vocabulary blocks: scratch, but what the scan of the row left there
  float largest, scale;
  RandomStream random;

  __device__ __forceinline__ float weight(float x) const { return expf((x - largest) * scale); }

  // Running sums over the vocabulary blocks: each thread has a range of them.
  int begin, end;
  double before, mine, total;
  template <typename Weight>
  __device__ __forceinline__ void sum_up(const Weight& weight_of) {
    const int each = (scan.blocks + kDrawThreads - 1) / kDrawThreads, lane = threadIdx.x % 32;
    begin = min(scan.blocks, static_cast<int>(threadIdx.x) * each);
    end = min(scan.blocks, begin + each);
    mine = 0;
    for (int b = begin; b < end; ++b) mine += weight_of(b);
    double up_to = mine;
    for (int delta = 1; delta < 32; delta *= 2) {
      const double other = __shfl_up_sync(kAllLanes, up_to, delta);
      if (lane >= delta) up_to += other;
    }
    double* const warps = scan.space->doubles;
    __syncthreads();
    if (lane == 31) warps[threadIdx.x / 32] = up_to;
    __syncthreads();
    double others = 0;
    total = 0;
    for (int w = 0; w < kDrawWarps; ++w) {
      if (w == static_cast<int>(threadIdx.x) / 32) others = total;
      total += warps[w];
    }
    before = others + (up_to - mine);
  }

  // The block in which the running sum passes `at`, and what is left of `at` before it.
  template <typename Weight>
  __device__ __forceinline__ int pick_block(double at, const Weight& weight_of, double* left) {
    DrawSpace& s = *scan.space;
    if (threadIdx.x == 0) s.picked = -1;
    __syncthreads();
    int mine_is = -1;
    double up_to = before;
    if (at >= before && at < before + mine) {
      for (mine_is = begin; mine_is + 1 < end && up_to + weight_of(mine_is) <= at; ++mine_is)
        up_to += weight_of(mine_is);
      atomicMax(&s.picked, mine_is);  // rounding may make two threads' ranges meet at `at`
    }
    __syncthreads();
    if (mine_is >= 0 && mine_is == s.picked) s.left = at - up_to;
    __syncthreads();
    int picked = s.picked;
    *left = s.left;
    if (picked < 0) {  // rounding left `at` at the very end: the last block with any mass
      int last = 0;
      for (int b = begin; b < end; ++b)
        if (weight_of(b) > 0) last = b;
      picked = block_reduce(last, 0, s.ints, [](int x, int y) { return max(x, y); });
      *left = weight_of(picked);
    }
    __syncthreads();
    return picked;
  }

  // By the blocks' upper bounds, see VocabularyScan.
  __device__ __forceinline__ int by_rejection(float floor) {
    const auto bound = [&](int b) {
      return scan.maxima[b] >= floor ? weight(scan.maxima[b]) : 0.0f;
    };
    sum_up(bound);
    while (true) {
      double left;
      const int block = pick_block(random.next() * total, bound, &left);
      const double place = random.next() * 64;
      const int i = static_cast<int>(place), id = block * 64 + i;
      const float x = scan.row[id];
      if (id >= scan.row.vocab || !(x >= floor)) continue;
      if ((place - i) * bound(block) < weight(x)) return id;
    }
  }

  // The mass of the tokens before the pivot, by blocks, in sums.
  __device__ __forceinline__ void sum_before(const Pivot& pivot) {
    const int lane = threadIdx.x % 32;
    scan.for_blocks(
        pivot.logit,
        [&](int block) {
          float sum = 0;
          for (int id = block * 64 + lane; id < block * 64 + 64; id += 32) {
            const float x = scan.row[id];
            if (pivot.is_after(x, id)) sum += weight(x);
          }
          sum = warp_sum(sum);
          if (lane == 0) sums[block] = sum;
        },
        [&](int block) { sums[block] = 0; });
    __syncthreads();
    sum_up([&](int b) { return sums[b]; });
  }

  // The token before the pivot at which the running sum of the weights passes `at`.
  __device__ __forceinline__ int pick_token(const Pivot& pivot, double at) {
    DrawSpace& s = *scan.space;
    double left;
    const int block = pick_block(
        at, [&](int b) { return sums[b]; }, &left);
    if (threadIdx.x < 64) {
      const int id = block * 64 + threadIdx.x;
      const float x = scan.row[id];
      s.tokens[threadIdx.x] = pivot.is_after(x, id) ? weight(x) : 0;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int last = 0;  // the last one that can be drawn, if rounding leaves a crumb
      for (int i = 0; i < 64 && left >= 0; ++i) {
        if (s.tokens[i] == 0) continue;
        left -= s.tokens[i];
        last = i;
      }
      s.token = block * 64 + last;
    }
    __syncthreads();
    return s.token;
  }

  // A draw belongs to the nucleus if the mass before it is less than top_p; else the next is from
  // those before it.
  __device__ __forceinline__ int from_nucleus(float floor, double top_p, bool scanned) {
    Pivot pivot = {floor, INT32_MAX};
    if (scanned) {  // the scan has the sums, each in terms of its own maximum
      for (int b = threadIdx.x; b < scan.blocks; b += kDrawThreads)
        sums[b] *= weight(scan.maxima[b]);
      __syncthreads();
      sum_up([&](int b) { return sums[b]; });
    } else {
      sum_before(pivot);
    }
    const double target = top_p * total;
    while (true) {
      const int token = pick_token(pivot, random.next() * total);
      pivot = {scan.row[token], token};
      sum_before(pivot);
      if (total < target) return token;
    }
  }
};

__global__ void __launch_bounds__(kDrawThreads, 1) draw_kernel(SamplingRows rows) {
  __shared__ DrawSpace space;
  const int r = static_cast<int>(blockIdx.x);
  wait_for_previous_kernel();
  let_next_kernel_start();
  const RowParams& params = rows.params[r];
  int token = params.scored_token;
  if (token < 0) {
    const int blocks = static_cast<int>(scan_blocks(rows.vocab));
    const RowScan scan = {LogitRow(rows, r, true), rows.maxima + int64_t{r} * blocks, blocks,
                          &space};
    const float largest = scan.largest();
    if (largest == -INFINITY) {
      token = 0;
    } else if (params.temperature < kGreedyBelow || largest == INFINITY) {
      token = scan.first_equal(largest, -1);
    } else {
      float floor = -INFINITY;
      if (params.min_p > 0)
        floor = static_cast<float>(largest + params.temperature * log(params.min_p));
      if (params.top_k > 0) floor = fmaxf(floor, scan.kth_largest(params.top_k));
      Draw draw = {.scan = scan,
                   .sums = rows.sums + int64_t{r} * blocks,
                   .largest = largest,
                   .scale = static_cast<float>(1 / params.temperature),
                   .random = RandomStream(params.seed, params.index, params.position)};
      token = params.top_p < 1
                  ? draw.from_nucleus(floor, params.top_p, draws_from_whole_nucleus(params))
                  : draw.by_rejection(floor);
    }
  }
  if (threadIdx.x == 0) rows.tokens[r] = token;
}

}  // namespace

void draw_tokens(const SamplingRows& rows, cudaStream_t stream) {
  scan_rows(rows, false, stream);
  launch(draw_kernel, static_cast<unsigned>(rows.num_rows), kDrawThreads, 0, stream, rows);
}

}  // namespace nanovllm::cuda
