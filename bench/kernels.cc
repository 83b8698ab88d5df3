// bench_kernels [threads] [--cpu-time]: each kernel's time, and its share of the limit that bounds
// it, measured in the same run.
//
// The shapes are those of a 135M Llama model (hidden 576, intermediate 1536, 9 heads, 3 kv heads of
// 64). Every figure is the best of several rounds, limits included, so that a busy machine disturbs
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

double best_seconds(int rounds, const std::function<void()>& f) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const double start = seconds_now();
    f();
    best = std::min(best, seconds_now() - start);
  }
  return best;
}

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
      {"int4", DType::kBF16, WeightType::kInt4}};
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
    for (const int64_t rows : {2, 4, 8, 32, 128, 512}) {
      const int matrices = rows > 32 ? 1 : 6;
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

void bench_attention(const Limits& limits, int threads) {
  constexpr int kHeads = 9, kKVHeads = 3, kDim = 64, kBlock = 16, kContext = 2048,
                kRow = (kHeads + 2 * kKVHeads) * kDim;
  CpuBackend backend(choose_kernels(), threads);
  backend.allocate_kv_cache({1, kContext / kBlock, kBlock, kKVHeads, kDim, KVType::kBFloat16});
  float* qkv = backend.allocate(int64_t{kContext} * kRow);
  float* out = backend.allocate(int64_t{kContext} * kHeads * kDim);
  float* cos_sin = backend.allocate(int64_t{kContext} * kDim);
  std::mt19937 random(1);
  for (int64_t i = 0; i < int64_t{kContext} * kRow; ++i)
    qkv[i] = static_cast<float>(random() % 1000) / 1000 - 0.5f;
  const auto batch_of = [&](int first, int tokens) {
    Batch batch;
    batch.block_size = kBlock;
    batch.block_table_stride = kContext / kBlock;
    for (int i = 0; i < kContext / kBlock; ++i) batch.block_tables.push_back(i);
    for (int p = first; p < first + tokens; ++p) {
      batch.token_ids.push_back(0);
      batch.positions.push_back(p);
      batch.slot_mapping.push_back(p);
    }
    batch.query_start = {0, tokens};
    batch.context_lens = {first + tokens};
    return batch;
  };
  const Batch all = batch_of(0, kContext);
  const double rope = best_seconds(3, [&] {
    backend.rope_and_store_kv(
        {0, kHeads, kKVHeads, kDim, kDim, nullptr, nullptr, 0, cos_sin, false}, all, qkv);
  });
  std::printf("rope and store, %d tokens: %.2f ms\n", kContext, rope * 1e3);
  for (const auto& [first, tokens] : {std::pair{0, 512}, {1536, 512}, {kContext - 1, 1}}) {
    const Batch batch = batch_of(first, tokens);
    const double t = best_seconds(tokens == 1 ? 50 : 4, [&] {
      backend.attention({0, kHeads, 0.125f, 0}, batch, qkv, out);
    });
    double keys = 0;
    for (int p = first; p < first + tokens; ++p) keys += p + 1;
    std::printf(
        "attention, %d tokens after %d: %.3f ms, %.0f%% of the multiply-add limit, cache read at "
        "%.1f GB/s\n",
        tokens, first, t * 1e3, 100 * 4 * keys * kHeads * kDim / t / 1e9 / limits.gflops,
        4.0 * (first + tokens) * kKVHeads * kDim / t / 1e9);
  }
}

void bench_rows(int threads) {
  constexpr int64_t kRows = 512, kDim = 1536;
  CpuBackend backend(choose_kernels(), threads);
  float* x = backend.allocate(kRows * 2 * kDim);
  float* w = backend.allocate(kDim);
  float* out = backend.allocate(kRows * kDim);
  for (int64_t i = 0; i < kRows * 2 * kDim; ++i) x[i] = static_cast<float>(i % 1000) / 500 - 1;
  const double norm = best_seconds(10, [&] { backend.rms_norm(x, w, 1e-5f, kRows, kDim, out); });
  const double silu = best_seconds(10, [&] { backend.silu_mul(x, kRows, kDim, out); });
  std::printf("rms_norm %.1f GB/s, silu_mul %.1f GB/s (512 rows of 1536, read and written)\n",
              2.0 * 4 * kRows * kDim / norm / 1e9, 3.0 * 4 * kRows * kDim / silu / 1e9);
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
  bench_attention(limits, threads);
  bench_rows(threads);
}
