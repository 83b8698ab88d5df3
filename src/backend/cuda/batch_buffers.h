// BatchBuffers: where a step's Batch lies on the device. All of it travels in one copy from pinned
// memory into a buffer that is allocated once, at places that depend on the numbers of tokens and
// sequences alone: a CUDA graph that was recorded for them finds the next step's batch where it
// found the last one's.
//
// Belongs to one backend and its thread.
#pragma once

#include <cstdint>

#include "backend/batch.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"

namespace nanovllm::cuda {

class BatchBuffers {
 public:
  BatchBuffers(int64_t max_tokens, int64_t max_seqs, int64_t max_blocks_per_seq);

  static int64_t bytes(int64_t max_tokens, int64_t max_seqs, int64_t max_blocks_per_seq);

  // Starts the copy. Throws Error for a batch larger than the largest.
  DeviceBatch upload(const Batch& batch, const Stream& stream);

 private:
  // The host fills one half while the device may still copy from the other.
  static constexpr int kCopies = 2;

  const int64_t max_tokens_, max_seqs_, capacity_;  // the last of int32
  DeviceBuffer device_;
  PinnedBuffer host_[kCopies];
  Event copied_[kCopies];
  int next_ = 0;
};

}  // namespace nanovllm::cuda
