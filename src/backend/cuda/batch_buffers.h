// BatchBuffers: where a step's Batch lies on the device. All of it travels in one copy from pinned
// memory into a buffer that is allocated once, at places that depend on the numbers of tokens and
// sequences alone: a CUDA graph that was recorded for them finds the next step's batch where it
// found the last one's. The sampler's parameters travel with it.
//
// Belongs to one backend and its thread.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/sampling.h"

namespace nanovllm::cuda {

class BatchBuffers {
 public:
  explicit BatchBuffers(const StepLimits& limits);
  static int64_t bytes(const StepLimits& limits);

  // Starts the copy. *device_params: where the parameters will be. Throws Error for a batch larger
  // than the largest.
  DeviceBatch upload(const Batch& batch, std::span<const RowParams> params,
                     const RowParams** device_params, const Stream& stream);

 private:
  // The host fills one half while the device may still copy from the other.
  static constexpr int kCopies = 2;

  const StepLimits limits_;
  const int64_t capacity_;  // of int32
  DeviceBuffer device_;
  PinnedBuffer host_[kCopies];
  Event copied_[kCopies];
  int next_ = 0;
};

}  // namespace nanovllm::cuda
