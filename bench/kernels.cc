// bench_kernels [threads] [--cpu-time]: the products' time, and its share of the limit that bounds
// it, measured in the same run. (bench_attention measures the others.)
//
// Every figure is the best of several rounds, limits included, so that a busy machine disturbs
// both alike; --cpu-time, with one thread, counts the processor time instead of the time that
// passes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/dispatch.h"
#include "machine_limits.h"

namespace nanovllm::bench {
namespace {

// A tensor of `dtype` with arbitrary quants and small scales.
struct FakeTensor {
  std::vector<std::byte> bytes;
  TensorView view;
  FakeTensor(DType dtype, int64_t rows, int64_t columns) {
    bytes.resize(static_cast<size_t>(rows * dtype_row_bytes(dtype, columns)));
    uint32_t state = 1;
    for (std::byte& b : bytes) {
      state = state * 1664525 + 1013904223;
      b = static_cast<std::byte>(state >> 24 & 0x1f);  // keeps halves, bfloat16 and floats small
    }
    view = {"bench", dtype, {rows, columns}, bytes};
  }
};

void bench_linear(const Limits& limits, int threads) {
  struct Kind {
    const char* name;
    DType dtype;
    WeightType type;
  };
  const Kind kinds[] = {
      {"f32", DType::kF32, WeightType::kFloat32},    {"bf16", DType::kBF16, WeightType::kAsStored},
      {"f16", DType::kF16, WeightType::kAsStored},   {"q8_0", DType::kQ8_0, WeightType::kAsStored},
      {"q4_0", DType::kQ4_0, WeightType::kAsStored}, {"q4_1", DType::kQ4_1, WeightType::kAsStored},
      {"q4_k", DType::kQ4_K, WeightType::kAsStored}, {"q6_k", DType::kQ6_K, WeightType::kAsStored},
      {"int8", DType::kBF16, WeightType::kInt8},     {"int4", DType::kBF16, WeightType::kInt4}};
  // All layers' weights together exceed the caches, as in a model: 24 matrices of 1536 x 2048 (K a
  // multiple of 256).
  constexpr int64_t kMatrices = 24, kN = 1536, kK = 2048;
  CpuBackend backend(choose_kernels(), threads);
  std::printf(
      "linear, %d matrices %d x %d\n%-6s %10s %10s %8s %8s   shares of the read limit (1 row) and "
      "of the multiply-add limit\n",
      static_cast<int>(kMatrices), static_cast<int>(kN), static_cast<int>(kK), "kind", "1 row ms",
      "GB/s", "of read", "of FMA");
  for (const Kind& kind : kinds) {
    const FakeTensor tensor(kind.dtype, kN, kK);
    std::vector<std::unique_ptr<Weight>> weights;
    const double pack = best_seconds(1, [&] {
      for (int i = 0; i < kMatrices; ++i)
        weights.push_back(backend.pack({&tensor.view, 1}, kind.type));
    });
    float* x = backend.allocate(512 * kK);
    float* out = backend.allocate(512 * kN);
    std::mt19937 random(1);
    for (int64_t i = 0; i < 512 * kK; ++i) x[i] = static_cast<float>(random() % 1000) / 1000 - 0.5f;
    const double one = best_seconds(8, [&] {
      for (const auto& w : weights) backend.linear(*w, nullptr, x, 1, out);
    });
    const double bytes = static_cast<double>(weights[0]->bytes) * kMatrices,
                 macs = static_cast<double>(kMatrices) * kN * kK;
    std::printf("%-6s %10.2f %10.1f %7.0f%% %7.0f%%  ", kind.name, one * 1e3, bytes / one / 1e9,
                100 * bytes / one / 1e9 / limits.read_gbytes,
                100 * 2 * macs / one / 1e9 / limits.gflops);
    for (const int64_t rows : {2, 4, 8, 16, 32, 64, 128, 512}) {
      const int matrices = rows > 64 ? 1 : kMatrices;
      const double t = best_seconds(5, [&] {
        for (int i = 0; i < matrices; ++i) backend.linear(*weights[i], nullptr, x, rows, out);
      });
      std::printf(" %d rows %.0f%%", static_cast<int>(rows),
                  100 * 2.0 * rows * kN * kK * matrices / t / 1e9 / limits.gflops);
    }
    std::printf("  pack %.2f GB/s of packed bytes\n", bytes / pack / 1e9);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace nanovllm::bench

int main(int argc, char** argv) {
  using namespace nanovllm::bench;
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1]))
                               : static_cast<int>(std::thread::hardware_concurrency());
  if (argc > 2 && std::strcmp(argv[2], "--cpu-time") == 0 && threads == 1) use_processor_time();
  const Limits limits = measure_limits(threads);
  std::printf("%s, %d threads: %.0f GFLOP/s float32 multiply-add, %.1f GB/s read\n",
              nanovllm::choose_kernels().name, threads, limits.gflops, limits.read_gbytes);
  bench_linear(limits, threads);
}
