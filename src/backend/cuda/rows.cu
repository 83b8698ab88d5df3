// Kernels that pass once over rows of activations: bound by memory bandwidth for many rows, by the
// launch for few.
#include <algorithm>

#include "backend/cuda/kernels.h"
#include "backend/cuda/launch.cuh"

namespace nanovllm::cuda {
namespace {

// A block takes `kThreads` vectors of V elements of one row.
constexpr int kThreads = 128;

struct Place {
  int64_t row;
  int column;  // of the first element; may lie past the end
};
template <int V>
__device__ __forceinline__ Place place(int blocks_per_row) {
  return {static_cast<int64_t>(blockIdx.x / blocks_per_row),
          static_cast<int>((blockIdx.x % blocks_per_row * kThreads + threadIdx.x) * V)};
}

template <typename T, int V>
__global__ void embed_kernel(const T* table, int64_t first_id, int64_t table_rows,
                             const int32_t* ids, const int32_t* drawn, int blocks_per_row, int dim,
                             float* out) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const auto [row, column] = place<V>(blocks_per_row);
  if (column >= dim) return;
  const int32_t named = ids[row];
  const int64_t id = (named < 0 ? drawn[-1 - named] : named) - first_id;
  Vector<float, V> y = {};
  if (id >= 0 && id < table_rows) {
    const auto x = load<V>(table + id * dim + column);
#pragma unroll
    for (int i = 0; i < V; ++i) y.v[i] = to_float(x.v[i]);
  }
  store<V>(out + row * dim + column, y);
}

template <typename T, int V>
__global__ void silu_mul_kernel(const T* gate_up, int blocks_per_row, int dim, T* out) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const auto [row, column] = place<V>(blocks_per_row);
  if (column >= dim) return;
  const T* gate = gate_up + row * 2 * dim + column;
  const auto g = load<V>(gate), u = load<V>(gate + dim);
  Vector<T, V> y;
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float x = to_float(g.v[i]);
    y.v[i] = from_float<T>(x / (1.0f + __expf(-x)) * to_float(u.v[i]));
  }
  store<V>(out + row * dim + column, y);
}

template <typename T, int V>
__global__ void gather_kernel(const T* x, const int32_t* rows, int blocks_per_row, int dim,
                              T* out) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const auto [row, column] = place<V>(blocks_per_row);
  if (column >= dim) return;
  store<V>(out + row * dim + column, load<V>(x + int64_t{rows[row]} * dim + column));
}

template <typename T, int V>
__global__ void add_bias_kernel(T* x, const float* bias, int blocks_per_row, int dim) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const auto [row, column] = place<V>(blocks_per_row);
  if (column >= dim) return;
  T* at = x + row * dim + column;
  auto y = load<V>(at);
  const auto b = load<V>(bias + column);
#pragma unroll
  for (int i = 0; i < V; ++i) y.v[i] = from_float<T>(to_float(y.v[i]) + b.v[i]);
  store<V>(at, y);
}

template <typename T, int V>
__global__ void sum_ranks_kernel(const T* parts, int ranks, int64_t n, T* out) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * V;
  if (at >= n) return;
  Vector<float, V> sums = {};
  for (int r = 0; r < ranks; ++r) {
    const auto part = load<V>(parts + r * n + at);
#pragma unroll
    for (int i = 0; i < V; ++i)
      sums.v[i] = r == 0 ? to_float(part.v[i]) : sums.v[i] + to_float(part.v[i]);
  }
  Vector<T, V> y;
#pragma unroll
  for (int i = 0; i < V; ++i) y.v[i] = from_float<T>(sums.v[i]);
  store<V>(out + at, y);
}

// One block a row. The row is read twice; the second time it comes from the first-level cache.
template <typename T, int V>
__global__ void add_rms_norm_kernel(float* in, const T* x, const float* weight, float eps, int dim,
                                    T* out) {
  __shared__ float partial[32];
  const int64_t first = int64_t{blockIdx.x} * dim;
  float sum = 0;
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int i = threadIdx.x * V; i < dim; i += blockDim.x * V) {
    auto r = load<V>(in + first + i);
    if (x != nullptr) {
      const auto add = load<V>(x + first + i);
#pragma unroll
      for (int j = 0; j < V; ++j) r.v[j] += to_float(add.v[j]);
      store<V>(in + first + i, r);
    }
#pragma unroll
    for (int j = 0; j < V; ++j) sum += r.v[j] * r.v[j];
  }
  const float scale = rsqrtf(block_sum(sum, partial) / static_cast<float>(dim) + eps);
  for (int i = threadIdx.x * V; i < dim; i += blockDim.x * V) {
    const auto r = load<V>(in + first + i), w = load<V>(weight + i);
    Vector<T, V> y;
#pragma unroll
    for (int j = 0; j < V; ++j) y.v[j] = from_float<T>(r.v[j] * scale * w.v[j]);
    store<V>(out + first + i, y);
  }
}

// Calls f(T{}, V) with the element type and the number of elements a thread takes at once: `wide`
// where `dim` is a multiple of it, so that every row begins at an aligned address, else one.
template <typename F>
void with_type(Element type, const F& f) {
  if (type == Element::kBFloat16)
    f(bf16{});
  else
    f(float{});
}
template <int wide, typename F>
void with_width(int64_t dim, const F& f) {
  if (dim % wide == 0)
    f(std::integral_constant<int, wide>{});
  else
    f(std::integral_constant<int, 1>{});
}

unsigned blocks_per_row(int64_t dim, int width) { return ceil_div(dim, width * kThreads); }

}  // namespace

void embed(Element type, const void* table, int64_t first_id, int64_t table_rows,
           const int32_t* ids, const int32_t* drawn, int64_t rows, int64_t dim, float* out,
           cudaStream_t stream) {
  if (rows == 0) return;
  with_type(type, [&](auto t) {
    using T = decltype(t);
    with_width<4>(dim, [&](auto width) {
      const unsigned blocks = blocks_per_row(dim, width);
      launch(embed_kernel<T, width>, static_cast<unsigned>(rows) * blocks, kThreads, 0, stream,
             static_cast<const T*>(table), first_id, table_rows, ids, drawn, blocks, dim, out);
    });
  });
}

void silu_mul(Element type, const void* gate_up, int64_t rows, int64_t dim, void* out,
              cudaStream_t stream) {
  if (rows == 0) return;
  with_type(type, [&](auto t) {
    using T = decltype(t);
    with_width<16 / sizeof(T)>(dim, [&](auto width) {
      const unsigned blocks = blocks_per_row(dim, width);
      launch(silu_mul_kernel<T, width>, static_cast<unsigned>(rows) * blocks, kThreads, 0, stream,
             static_cast<const T*>(gate_up), blocks, dim, static_cast<T*>(out));
    });
  });
}

void gather_rows(Element type, const void* x, const int32_t* rows, int64_t num_rows, int64_t dim,
                 void* out, cudaStream_t stream) {
  if (num_rows == 0) return;
  with_type(type, [&](auto t) {
    using T = decltype(t);
    with_width<16 / sizeof(T)>(dim, [&](auto width) {
      const unsigned blocks = blocks_per_row(dim, width);
      launch(gather_kernel<T, width>, static_cast<unsigned>(num_rows) * blocks, kThreads, 0, stream,
             static_cast<const T*>(x), rows, blocks, dim, static_cast<T*>(out));
    });
  });
}

void add_bias(Element type, void* x, const float* bias, int64_t rows, int64_t dim,
              cudaStream_t stream) {
  if (rows == 0) return;
  with_type(type, [&](auto t) {
    using T = decltype(t);
    with_width<4>(dim, [&](auto width) {
      const unsigned blocks = blocks_per_row(dim, width);
      launch(add_bias_kernel<T, width>, static_cast<unsigned>(rows) * blocks, kThreads, 0, stream,
             static_cast<T*>(x), bias, blocks, dim);
    });
  });
}

void sum_ranks(Element type, const void* parts, int ranks, int64_t n, void* out,
               cudaStream_t stream) {
  if (n == 0) return;
  with_type(type, [&](auto t) {
    using T = decltype(t);
    with_width<16 / sizeof(T)>(n, [&](auto width) {
      launch(sum_ranks_kernel<T, width>, ceil_div(n, int64_t{width} * kThreads), kThreads, 0,
             stream, static_cast<const T*>(parts), ranks, n, static_cast<T*>(out));
    });
  });
}

void add_rms_norm(Element type, float* in, const void* x, const float* weight, float eps,
                  int64_t rows, int64_t dim, void* out, cudaStream_t stream) {
  if (rows == 0) return;
  with_type(type, [&](auto t) {
    using T = decltype(t);
    with_width<4>(dim, [&](auto width) {
      // Enough threads for a row at once, but for the longest.
      const unsigned threads = std::min(ceil_div(dim, width * 32) * 32, 512u);
      launch(add_rms_norm_kernel<T, width>, static_cast<unsigned>(rows), threads, 0, stream, in,
             static_cast<const T*>(x), weight, eps, dim, static_cast<T*>(out));
    });
  });
}

}  // namespace nanovllm::cuda
