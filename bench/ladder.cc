// bench_ladder: one product, 120 rows by a bfloat16 matrix of 1024 x 1024, from the plain loop to
// the kernels, one thread. docs/kernels.md explains the rungs.
#include <algorithm>
#include <bit>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/dispatch.h"
#include "machine_limits.h"

namespace nanovllm::bench {
namespace {

constexpr int64_t kRows = 120, kN = 1024, kK = 1024;

float widened(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// out[r, n] = sum over k of x[r, k] * w[n, k], as it is written.
void plain_loop(const float* x, const uint16_t* w, float* out) {
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t n = 0; n < kN; ++n) {
      float sum = 0;
      for (int64_t k = 0; k < kK; ++k) sum += x[r * kK + k] * widened(w[n * kK + k]);
      out[r * kN + n] = sum;
    }
}

// The same with w in panels of 16 columns, [panel][k][16]: sixteen sums side by side, which a
// compiler turns into vectors without changing any sum's order.
void panels_loop(const float* x, const uint16_t* panels, float* out) {
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t p = 0; p < kN / 16; ++p) {
      float sums[16] = {};
      for (int64_t k = 0; k < kK; ++k)
        for (int64_t i = 0; i < 16; ++i)
          sums[i] += x[r * kK + k] * widened(panels[(p * kK + k) * 16 + i]);
      std::copy_n(sums, 16, out + r * kN + p * 16);
    }
}

int run() {
  std::mt19937 random(1);
  std::vector<uint16_t> w(kN * kK), panels(kN * kK);
  for (uint16_t& v : w) v = static_cast<uint16_t>(0x3c00 + random() % 0x100 + (random() % 2 << 15));
  for (int64_t n = 0; n < kN; ++n)
    for (int64_t k = 0; k < kK; ++k) panels[(n / 16 * kK + k) * 16 + n % 16] = w[n * kK + k];
  const TensorView view = {"w", DType::kBF16, {kN, kK}, std::as_bytes(std::span(w))};

  CpuBackend backend(choose_kernels(), 1);
  float* x = backend.allocate(kRows * kK);
  float* out = backend.allocate(kRows * kN);
  for (int64_t i = 0; i < kRows * kK; ++i) x[i] = static_cast<float>(random() % 2001) / 1000 - 1;
  const auto bf16 = backend.pack({&view, 1}, WeightType::kAsStored);
  const auto int8 = backend.pack({&view, 1}, WeightType::kInt8);

  const double limit = measure_limits(1).gflops;
  const auto rung = [&](const char* name, const std::function<void()>& f) {
    const double gflops = 2.0 * kRows * kN * kK / best_seconds(12, f) / 1e9;
    std::printf("%-52s %7.1f GFLOP/s %5.0f %%\n", name, gflops, 100 * gflops / limit);
  };
  std::printf("%s, multiply-add limit %.0f GFLOP/s\n", backend.isa().c_str(), limit);
  rung("plain loop", [&] { plain_loop(x, w.data(), out); });
  rung("panels of 16 columns, the compiler's vectors", [&] { panels_loop(x, panels.data(), out); });
  rung("kernel, row by row: two panels, widened in registers", [&] {
    for (int64_t r = 0; r < kRows; ++r) backend.linear(*bf16, nullptr, x + r * kK, 1, out + r * kN);
  });
  rung("kernel, all rows: tiles over a widened panel",
       [&] { backend.linear(*bf16, nullptr, x, kRows, out); });
  rung("kernel, all rows: bytes (int8)", [&] { backend.linear(*int8, nullptr, x, kRows, out); });
  return 0;
}

}  // namespace
}  // namespace nanovllm::bench

int main() { return nanovllm::bench::run(); }
