// Where things lie: the cache's records and the sequences of a batch.
#pragma once

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace nanovllm::cuda {

// The first element of a token's head in the cache. Records of a head's block_size tokens are
// contiguous, so that the blocks of a GPU that read one head each read long runs.
__device__ __forceinline__ int64_t cache_offset(const KVCache& cache, int slot, int head) {
  const int block = slot / cache.block_size, offset = slot % cache.block_size;
  return ((int64_t{block} * cache.num_kv_heads + head) * cache.block_size + offset) *
         cache.head_dim;
}

// The sequence that token t belongs to.
__device__ __forceinline__ int sequence_of(const DeviceBatch& batch, int t) {
  int low = 0, high = batch.num_seqs - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (batch.query_start[middle] <= t)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

}  // namespace nanovllm::cuda
