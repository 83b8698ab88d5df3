// Products of our own, beside cuBLASLt's.
#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {

// A thread an output. Slow, and right for every shape.
template <typename T, typename Out>
__global__ void plain_linear_kernel(const T* w, const T* x, int in, int out, Out* y,
                                    int64_t y_stride) {
  const int n = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (n >= out) return;
  const T* row = x + int64_t{blockIdx.x} * in;
  float sum = 0;
  for (int k = 0; k < in; ++k) sum += to_float(row[k]) * to_float(w[int64_t{n} * in + k]);
  y[blockIdx.x * y_stride + n] = from_float<Out>(sum);
}

}  // namespace

void plain_linear(Element type, const void* w, const void* x, int64_t rows, int64_t in, int64_t out,
                  Element out_type, void* y, int64_t y_stride, cudaStream_t stream) {
  if (rows == 0) return;
  const dim3 grid(static_cast<unsigned>(rows), ceil_div(out, 128));
  auto run = [&](auto t, auto o) {
    using T = decltype(t);
    using Out = decltype(o);
    launch(plain_linear_kernel<T, Out>, grid, 128, 0, stream, static_cast<const T*>(w),
           static_cast<const T*>(x), in, out, static_cast<Out*>(y), y_stride);
  };
  if (type == Element::kFloat32)
    run(float{}, float{});
  else if (out_type == Element::kFloat32)
    run(bf16{}, float{});
  else
    run(bf16{}, bf16{});
}

}  // namespace nanovllm::cuda
