// bench_attention [threads] [--cpu-time] [--only PART]: attention against the limits of this
// machine, and the row kernels against the products of the same step. PART: prefill, decode, rows.
//
// Every figure is the best of several rounds, limits included, so that a busy machine disturbs both
// alike; --cpu-time, with one thread, counts the processor time instead of the time that passes.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/dispatch.h"
#include "machine_limits.h"

namespace nanovllm::bench {
namespace {

struct Shape {
  const char* name;
  int num_layers, hidden, intermediate, num_heads, num_kv_heads, head_dim;
  int row() const { return (num_heads + 2 * num_kv_heads) * head_dim; }
  // Multiply-adds of a layer's products for a token.
  double layer_macs() const {
    return double{1} * hidden * (row() + num_heads * head_dim + 3.0 * intermediate);
  }
};
constexpr Shape kSmolLM2 = {"SmolLM2-135M", 30, 576, 1536, 9, 3, 64};
constexpr Shape kQwen3 = {"Qwen3-0.6B", 28, 1024, 3072, 16, 8, 128};

struct KV {
  const char* name;
  KVType type;
};
constexpr KV kTypes[] = {
    {"float32", KVType::kFloat32}, {"bfloat16", KVType::kBFloat16}, {"int8", KVType::kInt8}};

// A backend whose cache holds `context` tokens of one sequence in each of `layers` layers, in
// blocks of 16 in random order.
struct World {
  static constexpr int kBlock = 16, kStep = 512;
  World(const Shape& s, KVType type, int context, int layers, int threads)
      : shape(s), backend(choose_kernels(), threads), blocks(context / kBlock) {
    cache = {layers, context / kBlock, kBlock, s.num_kv_heads, s.head_dim, type};
    backend.allocate_kv_cache(cache);
    std::iota(blocks.begin(), blocks.end(), 0);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(1));
    qkv = backend.allocate(int64_t{kStep} * s.row());
    out = backend.allocate(int64_t{kStep} * s.num_heads * s.head_dim);
    cos_sin = backend.allocate(int64_t{context} * s.head_dim);
    norm = backend.allocate(s.head_dim);
    std::fill_n(cos_sin, int64_t{context} * s.head_dim, 0.7f);
    std::fill_n(norm, s.head_dim, 1.0f);
    std::mt19937 random(1);
    for (int64_t i = 0; i < int64_t{kStep} * s.row(); ++i)
      qkv[i] = static_cast<float>(random() % 1000) / 500 - 1;
    for (int first = 0; first < context; first += kStep) {
      const Batch batch = batch_of(first, std::min(kStep, context - first));
      for (int layer = 0; layer < layers; ++layer) store(layer, batch);
    }
  }
  Batch batch_of(int first, int tokens) const {
    Batch batch;
    batch.block_size = kBlock;
    batch.block_table_stride = static_cast<int32_t>(blocks.size());
    batch.block_tables = blocks;
    for (int p = first; p < first + tokens; ++p) {
      batch.token_ids.push_back(0);
      batch.positions.push_back(p);
      batch.slot_mapping.push_back(blocks[p / kBlock] * kBlock + p % kBlock);
    }
    batch.query_start = {0, tokens};
    batch.context_lens = {first + tokens};
    return batch;
  }
  void store(int layer, const Batch& batch) {
    backend.rope_and_store_kv({layer, shape.num_heads, shape.num_kv_heads, shape.head_dim,
                               shape.head_dim, norm, norm, 1e-6f, cos_sin, false},
                              batch, qkv);
  }
  void attend(int layer, const Batch& batch) {
    backend.attention(
        {layer, shape.num_heads, 1 / std::sqrt(static_cast<float>(shape.head_dim)), 0}, batch, qkv,
        out);
  }

  Shape shape;
  CpuBackend backend;
  KVCacheShape cache;
  std::vector<int32_t> blocks;
  float *qkv, *out, *cos_sin, *norm;
};

void bench_prefill(const Limits& limits, int threads) {
  for (const Shape& shape : {kSmolLM2, kQwen3}) {
    for (const KV& kv : kTypes) {
      World world(shape, kv.type, 2048, 1, threads);
      std::printf("prefill, %s, %s keys and values:", shape.name, kv.name);
      for (const auto& [first, tokens] :
           {std::pair{0, 32}, {0, 128}, {0, 512}, {1536, 512}, {2040, 8}}) {
        const Batch batch = world.batch_of(first, tokens);
        const double t = best_seconds(tokens == 8 ? 30 : 8, [&] { world.attend(0, batch); });
        double keys = 0;
        for (int p = first; p < first + tokens; ++p) keys += p + 1;
        std::printf("  %d after %d: %.2f ms, %.0f%%", tokens, first, t * 1e3,
                    100 * 4 * keys * shape.num_heads * shape.head_dim / t / 1e9 / limits.gflops);
      }
      std::printf("  of the multiply-add limit, for the visible keys\n");
      std::fflush(stdout);
    }
  }
}

void bench_decode(const Limits& limits, int threads) {
  for (const Shape& shape : {kSmolLM2, kQwen3}) {
    for (const KV& kv : kTypes) {
      std::printf("decode, %s, %s:", shape.name, kv.name);
      for (const int context : {2048, 8192, 32768}) {
        // Layers enough that none is found in a cache.
        const int layers = std::clamp(100 * 2048 / context / (shape.head_dim / 32), 2, 28);
        World world(shape, kv.type, context, layers, threads);
        const Batch batch = world.batch_of(context - 1, 1);
        const double t = best_seconds(6, [&] {
          for (int layer = 0; layer < layers; ++layer) world.attend(layer, batch);
        });
        const double gbytes =
            static_cast<double>(world.backend.kv_cache_bytes(world.cache)) / t / 1e9;
        std::printf("  %d keys: %.3f ms a layer, %.1f GB/s, %.0f%%", context, t / layers * 1e3,
                    gbytes, 100 * gbytes / limits.read_gbytes);
        std::fflush(stdout);
      }
      std::printf("  of the read limit\n");
    }
  }
}

void bench_rows(const Limits& limits, int threads) {
  constexpr int kRows = World::kStep;
  for (const Shape& shape : {kSmolLM2, kQwen3}) {
    World world(shape, KVType::kBFloat16, kRows, 1, threads);
    CpuBackend& backend = world.backend;
    float* x = backend.allocate(int64_t{kRows} * shape.hidden);
    float* residual = backend.allocate(int64_t{kRows} * shape.hidden);
    float* weight = backend.allocate(shape.hidden);
    float* gate_up = backend.allocate(int64_t{kRows} * 2 * shape.intermediate);
    float* act = backend.allocate(int64_t{kRows} * shape.intermediate);
    for (int64_t i = 0; i < int64_t{kRows} * 2 * shape.intermediate; ++i)
      gate_up[i] = static_cast<float>(i % 1000) / 500 - 1;
    for (int64_t i = 0; i < int64_t{kRows} * shape.hidden; ++i)
      x[i] = static_cast<float>(i % 1000) / 5000 - 0.1f;
    const Batch batch = world.batch_of(0, kRows);
    const double norm = best_seconds(
        10, [&] { backend.add_rms_norm(residual, x, weight, 1e-5f, kRows, shape.hidden, x); });
    const double rope = best_seconds(10, [&] { world.store(0, batch); });
    const double silu =
        best_seconds(10, [&] { backend.silu_mul(gate_up, kRows, shape.intermediate, act); });
    const double products = 2 * shape.layer_macs() * kRows / limits.gflops / 1e9;
    std::printf(
        "rows, %s, %d tokens, a layer: add + norm %.3f ms (%.1f GB/s), norm + rope + store %.3f ms "
        "(%.1f GB/s), silu * mul %.3f ms (%.1f GB/s); with a second norm %.2f%% of the products at "
        "their limit\n",
        shape.name, kRows, norm * 1e3, 16.0 * kRows * shape.hidden / norm / 1e9, rope * 1e3,
        8.0 * kRows * shape.row() / rope / 1e9, silu * 1e3,
        12.0 * kRows * shape.intermediate / silu / 1e9, 100 * (2 * norm + rope + silu) / products);
  }
}

}  // namespace
}  // namespace nanovllm::bench

int main(int argc, char** argv) {
  using namespace nanovllm::bench;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
  std::string only;
  bool cpu_time = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--cpu-time") == 0)
      cpu_time = true;
    else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc)
      only = argv[++i];
    else
      threads = std::max(1, std::atoi(argv[i]));
  }
  if (cpu_time && threads == 1) use_processor_time();
  const Limits limits = measure_limits(threads);
  std::printf("%s, %d threads: %.0f GFLOP/s float32 multiply-add, %.1f GB/s read\n",
              nanovllm::choose_kernels().name, threads, limits.gflops, limits.read_gbytes);
  if (only.empty() || only == "prefill") bench_prefill(limits, threads);
  if (only.empty() || only == "decode") bench_decode(limits, threads);
  if (only.empty() || only == "rows") bench_rows(limits, threads);
}
