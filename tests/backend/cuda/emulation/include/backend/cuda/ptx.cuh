// src/backend/cuda/ptx.cuh for kernels that run under emulation: the same functions in plain C++,
// from the layouts of fragments that the PTX manual gives.
#pragma once

#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace nanovllm::cuda {

// Kernels run one after the other.
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}

template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulation::dynamic_shared_memory());
}

}  // namespace nanovllm::cuda
