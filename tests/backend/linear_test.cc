// linear against a plain loop in double, and its promise: the same bits on every instruction set,
// for any number of rows and threads.
#include "backend_test_util.h"

namespace nanovllm {
namespace {

struct Case {
  DType dtype;
  WeightType type;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const DType dtype : kAllDTypes) cases.push_back({dtype, WeightType::kAsStored});
  for (const WeightType type : {WeightType::kFloat32, WeightType::kInt8, WeightType::kInt4})
    cases.push_back({DType::kF32, type});
  return cases;
}

TEST(Linear, EqualsAPlainLoop) {
  Random random(11);
  CpuBackend backend(*all_kernels().front(), 2);
  for (const Case& c : all_cases()) {
    const int64_t block = dtype_block_elements(c.dtype);
    for (const int64_t n : {1, 16, 33}) {
      for (const int64_t k : {block == 1 ? 1 : block, block == 1 ? 333 : 3 * block}) {
        RandomTensor t("w", c.dtype, n, k, random);
        const auto w = backend.pack({&t.view, 1}, c.type);
        std::vector<float> weights(static_cast<size_t>(n * k));
        std::vector<int32_t> ids(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(i);
        backend.embed(*w, ids, weights.data());
        for (const int64_t rows : {1, 2, 7, 130}) {
          const std::vector<float> x = random.normals(rows * k), bias = random.normals(n);
          for (const float* b : {bias.data(), static_cast<const float*>(nullptr)}) {
            const std::vector<float> got = run_linear(backend, *w, x, rows, b);
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t i = 0; i < n; ++i) {
                // One chain in the order of k: the definition, exactly.
                float chain = 0;
                double sum = 0, magnitude = 0;
                for (int64_t j = 0; j < k; ++j) {
                  chain = std::fma(weights[i * k + j], x[r * k + j], chain);
                  sum += double{weights[i * k + j]} * x[r * k + j];
                  magnitude += std::fabs(double{weights[i * k + j]} * x[r * k + j]);
                }
                if (b) chain += b[i], sum += b[i];
                ASSERT_EQ(got[r * n + i], chain)
                    << dtype_name(c.dtype) << " " << n << "x" << k << " row " << r;
                ASSERT_NEAR(chain, sum, 1e-5 * (magnitude + 1));
              }
            }
          }
        }
      }
    }
  }
}

TEST(Linear, SameBitsForAnyRowsThreadsAndInstructionSet) {
  Random random(12);
  for (const Case& c : all_cases()) {
    const int64_t block = dtype_block_elements(c.dtype);
    const int64_t n = 69, k = block == 1 ? 301 : (block == 32 ? 288 : 512), rows = 125;
    RandomTensor t("w", c.dtype, n, k, random);
    const std::vector<float> x = random.normals(rows * k), bias = random.normals(n);
    CpuBackend reference(*kernels_scalar(), 1);
    const auto w0 = reference.pack({&t.view, 1}, c.type);
    const std::vector<float> want = run_linear(reference, *w0, x, rows, bias.data());
    for (const KernelTable* kernels : all_kernels()) {
      for (const int threads : {1, 2, 3}) {
        if (kernels == kernels_scalar() && threads == 3) continue;  // slow, and shows nothing more
        SCOPED_TRACE(std::string(dtype_name(c.dtype)) + " " + kernels->name + " threads " +
                     std::to_string(threads));
        CpuBackend backend(*kernels, threads);
        const auto w = backend.pack({&t.view, 1}, c.type);
        EXPECT_TRUE(same_bits(run_linear(backend, *w, x, rows, bias.data()), want));
        for (const int64_t chunk : {1, 2, 5, 6, 13}) {
          if (kernels == kernels_scalar() && (chunk == 5 || chunk == 6))
            continue;  // the rows in small calls
          std::vector<float> got(want.size());
          for (int64_t r = 0; r < rows; r += chunk)
            backend.linear(*w, bias.data(), x.data() + r * k, std::min(chunk, rows - r),
                           got.data() + r * n);
          EXPECT_TRUE(same_bits(got, want)) << "in chunks of " << chunk;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nanovllm
