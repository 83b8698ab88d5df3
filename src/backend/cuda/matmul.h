// Matmul: products with packed weights by cuBLASLt. The algorithm for a shape is asked for once and
// kept; the workspace is fixed. What cuBLASLt has no algorithm for (rows that are not aligned to 16
// bytes) goes to plain_linear().
//
// Belongs to one backend and its thread.
#pragma once

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"

namespace nanovllm::cuda {

class Matmul {
 public:
  // What NVIDIA recommends for Hopper: https://docs.nvidia.com/cuda/cublas, cublasSetWorkspace.
  static constexpr int64_t kWorkspaceBytes = 32 << 20;

  Matmul();
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  // out[t, n] = sum_k x[t, k] * w[n, k].  w [out_features, in_features], x [rows, in_features],
  // both of `type`; out is of out_type, its rows out_stride elements apart.
  void linear(const void* w, int64_t in_features, int64_t out_features, const void* x, int64_t rows,
              Element type, Element out_type, void* out, int64_t out_stride, cudaStream_t stream);

 private:
  struct Plan;
  // in, out, rows, stride of out, types
  using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, Element, Element>;
  Plan* plan(const Shape& shape);  // null: there is no algorithm

  cublasLtHandle_t handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Shape, std::unique_ptr<Plan>> plans_;
};

}  // namespace nanovllm::cuda
