// The instructions that CUDA C++ has no function for. Each is one function here, so that a header
// of the same name can replace this one where kernels run under emulation
// (tests/backend/cuda/emulation/). PTX: https://docs.nvidia.com/cuda/parallel-thread-execution
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace nanovllm::cuda {

// Returns when the kernel before this one in the stream has ended. See launch.cuh.
__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next kernel's blocks may be placed now, as far as there is room beside this kernel's.
__device__ __forceinline__ void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// The shared memory whose size the launch gives.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

}  // namespace nanovllm::cuda
