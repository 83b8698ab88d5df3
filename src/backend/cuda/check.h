// Errors of CUDA's libraries as exceptions. A call that fails names itself and the reason.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "nanovllm/error.h"

namespace nanovllm::cuda {

inline void check(cudaError_t error, const char* call) {
  if (error != cudaSuccess) throw Error(call, cudaGetErrorString(error));
}
inline void check(cublasStatus_t status, const char* call) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(call, std::string("failed: ") + cublasLtGetStatusString(status));
}

}  // namespace nanovllm::cuda
