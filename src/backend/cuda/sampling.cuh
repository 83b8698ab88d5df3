// What the sampling kernels share. The method is that of sampling/vocabulary_scan.h, which says why
// it is right: the row is read once for the largest logit of every 64, by as many blocks of threads
// as it takes; after that one block of threads a row looks only where the maxima say that there is
// something to see. Tokens come in the order of falling logits, equal ones by id; NaN counts as
// minus infinity.
#pragma once

#include "backend/cuda/launch.cuh"
#include "backend/cuda/sampling.h"

namespace nanovllm::cuda {

constexpr int kScanThreads = 256, kDrawThreads = 512, kDrawWarps = kDrawThreads / 32;

// Whether top_p is over all of the row's mass, so that the scan must sum it up.
__device__ __forceinline__ bool draws_from_whole_nucleus(const RowParams& p) {
  return p.temperature >= kGreedyBelow && p.top_p < 1 && p.top_k == 0 && p.min_p == 0;
}

// One row of logits. Biases are in the logits; the mask and the penalties are applied when one is
// read.
struct LogitRow {
  const float* logits;
  int vocab;
  const uint32_t *allowed = nullptr, *counts = nullptr;
  float repetition = 1;
  double presence = 0, frequency = 0;

  __device__ __forceinline__ LogitRow(const SamplingRows& rows, int row, bool adjusted)
      : logits(rows.logits + int64_t{row} * rows.vocab), vocab(rows.vocab) {
    if (!adjusted || rows.extras == nullptr) return;
    allowed = rows.extras[row].allowed;
    counts = rows.extras[row].counts;
    repetition = rows.params[row].repetition;
    presence = rows.params[row].presence;
    frequency = rows.params[row].frequency;
  }

  // The logit of a token, minus infinity past the end.
  __device__ __forceinline__ float operator[](int id) const {
    if (id >= vocab) return -INFINITY;
    float x = fmaxf(logits[id], -INFINITY);
    if (allowed != nullptr && (allowed[id / 32] >> (id % 32) & 1) == 0) x = -INFINITY;
    const uint32_t count = counts != nullptr ? counts[id] : 0;
    if (count == 0) return x;
    x = x > 0 ? x / repetition : x * repetition;
    const uint32_t in_output = count & ~kInPrompt;
    if (in_output > 0) x -= static_cast<float>(frequency * in_output + presence);
    return x;
  }
};

// Reductions over a block of kDrawThreads. `space` is free again after the next barrier.
template <typename T, typename Op>
__device__ __forceinline__ T block_reduce(T x, T neutral, T* space, const Op& op) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, mask));
  if (lane == 0) space[threadIdx.x / 32] = x;
  __syncthreads();
  x = lane < kDrawWarps ? space[lane] : neutral;
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = op(x, __shfl_xor_sync(kAllLanes, x, mask));
  __syncthreads();
  return x;
}

// The scratch in shared memory of a block that draws.
struct DrawSpace {
  double doubles[32];
  float floats[32];
  int ints[32];
  unsigned histogram[256];
  unsigned prefix;
  int64_t wanted;
  float tokens[64];
  int picked, token;
  double left;
};

// A row with its maxima. All methods are called by all kDrawThreads threads of a block.
struct RowScan {
  LogitRow row;
  const float* maxima;
  int blocks;
  DrawSpace* space;

  // f(block) by whole warps, for the blocks that have a logit of at least `floor`; skip(block) by
  // one lane for each other.
  template <typename F, typename Skip>
  __device__ __forceinline__ void for_blocks(float floor, const F& f, const Skip& skip) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int first = warp * 32; first < blocks; first += kDrawThreads) {
      const bool exists = first + lane < blocks;
      const bool wanted = exists && maxima[first + lane] >= floor;
      if (exists && !wanted) skip(first + lane);
      for (unsigned left = __ballot_sync(kAllLanes, wanted); left != 0; left &= left - 1)
        f(first + __ffs(static_cast<int>(left)) - 1);
    }
  }
  // f(id, logit) for the tokens of those blocks.
  template <typename F>
  __device__ __forceinline__ void for_tokens(float floor, const F& f) const {
    const int lane = threadIdx.x % 32;
    for_blocks(
        floor,
        [&](int block) {
          f(block * 64 + lane, row[block * 64 + lane]);
          f(block * 64 + 32 + lane, row[block * 64 + 32 + lane]);
        },
        [](int) {});
  }

  __device__ __forceinline__ float largest() const {
    float x = -INFINITY;
    for (int b = threadIdx.x; b < blocks; b += kDrawThreads) x = fmaxf(x, maxima[b]);
    return block_reduce(x, -INFINITY, space->floats, [](float a, float b) { return fmaxf(a, b); });
  }

  // The smallest id above `after` whose logit is x; x is the largest of some block.
  __device__ __forceinline__ int first_equal(float x, int after) const {
    int id = INT32_MAX;
    for_tokens(x, [&](int i, float y) {
      if (y == x && i > after && i < row.vocab) id = min(id, i);
    });
    return block_reduce(id, INT32_MAX, space->ints, [](int a, int b) { return min(a, b); });
  }

  // Floats as unsigned integers of the same order.
  __device__ __forceinline__ static unsigned key_of(float x) {
    const unsigned bits = __float_as_uint(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  __device__ __forceinline__ static float of_key(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
  }

  // The k-th largest of the floats that each(f) calls f with, of which there are at least k: eight
  // bits of its key at a time, from the top, by counting those of each value.
  template <typename Each>
  __device__ __forceinline__ float select(int64_t k, const Each& each) const {
    unsigned prefix = 0, known = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
      for (int i = threadIdx.x; i < 256; i += kDrawThreads) space->histogram[i] = 0;
      __syncthreads();
      each([&](float x) {
        const unsigned key = key_of(x);
        if ((key & known) == prefix) atomicAdd(&space->histogram[key >> shift & 255], 1u);
      });
      __syncthreads();
      if (threadIdx.x < 32) {  // lane i counts the eight values from 255 - 8 i downwards
        const int lane = threadIdx.x, top = 255 - 8 * lane;
        int64_t mine = 0;
        for (int i = 0; i < 8; ++i) mine += space->histogram[top - i];
        int64_t up_to = mine;  // and all above
        for (int delta = 1; delta < 32; delta *= 2) {
          const int64_t other = __shfl_up_sync(kAllLanes, up_to, delta);
          if (lane >= delta) up_to += other;
        }
        if (up_to >= k && up_to - mine < k) {
          int64_t left = k - (up_to - mine);
          int value = top;
          while (left > space->histogram[value]) left -= space->histogram[value--];
          space->prefix = prefix | static_cast<unsigned>(value) << shift;
          space->wanted = left;
        }
      }
      __syncthreads();
      prefix = space->prefix;
      k = space->wanted;
      known |= 0xffu << shift;
    }
    return of_key(prefix);
  }

  // The k-th largest logit; minus infinity if there are fewer. Where there are as many blocks, the
  // k-th largest maximum is a lower bound, and only the few blocks that reach it are looked at.
  __device__ __forceinline__ float kth_largest(int64_t k) const {
    if (k > row.vocab) return -INFINITY;
    float lower = -INFINITY;
    if (k <= blocks)
      lower = select(k, [&](const auto& f) {
        for (int b = threadIdx.x; b < blocks; b += kDrawThreads) f(maxima[b]);
      });
    return select(k, [&](const auto& f) {
      for_tokens(lower, [&](int id, float x) {
        if (id < row.vocab && x >= lower) f(x);
      });
    });
  }
};

// Reads rows and writes the maxima of their blocks of 64; with sums, also the sum of exp((x -
// maximum) / temperature) of each.
void scan_rows(const SamplingRows& rows, bool logprobs, cudaStream_t stream);

}  // namespace nanovllm::cuda
