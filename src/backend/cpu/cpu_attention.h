// CpuAttention: the paged KV cache of all layers, and the calls that write and read it, split into
// items for the thread pool. Owned by the CpuBackend and called by its thread.
//
// An item of attention is a tile of query rows of one sequence and kv head, with all the keys they
// see; a few rows (decoding) take all kv heads together, because their keys lie side by side. Where
// that leaves threads without work, the keys are cut into segments, whose states go to a buffer and
// are merged in order of position: the same bits (generic/attention.h).
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/thread_pool.h"

namespace nanovllm {

class CpuAttention {
 public:
  CpuAttention(const KernelTable& kernels, ThreadPool& pool) : kernels_(kernels), pool_(pool) {}

  // Bytes of a cache of this shape; throws Error where they pass 2^63.
  static int64_t kv_bytes(const KVCacheShape& shape);
  void allocate(const KVCacheShape& shape);

  void rope_and_store(const Backend::RopeParams& p, const Batch& batch, float* qkv);
  void attention(const AttentionParams& p, const Batch& batch, const float* qkv, float* out);

 private:
  // Rows first_row .. last_row of some kv heads of a sequence, over segments first .. last of its
  // keys; state: where in states_ the segments' states go, or -1 for items that write their output.
  struct Item {
    int32_t sequence, kv_head, num_kv_heads;
    int64_t first_row, last_row, first_segment, last_segment, state;
    int64_t rows() const { return last_row - first_row; }
    int64_t segments() const { return last_segment - first_segment; }
    int64_t work() const { return rows() * num_kv_heads * segments(); }
  };

  KVLayer layer(int index) const;
  void plan(const AttentionParams& p, const Batch& batch);
  void divide(const Item& tile, int64_t largest, int64_t* states);
  AttentionArgs arguments(const Item& item, const AttentionParams& p, const Batch& batch,
                          const float* qkv, float* out, int thread) const;

  const KernelTable& kernels_;
  ThreadPool& pool_;
  KVCacheShape kv_;
  Memory kv_memory_;
  Memory scratch_;              // of each thread
  int64_t scratch_stride_ = 0;  // bytes
  Memory states_;
  std::vector<Item> tiles_;  // of a call
  std::vector<Item> items_;  // what the threads are given
  std::vector<Item> split_;  // tiles whose states are to be merged
};

}  // namespace nanovllm
