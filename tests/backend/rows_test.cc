// The kernels on single rows, against plain loops in double, and bit for bit between instruction
// sets and row counts.
#include "backend_test_util.h"

namespace nanovllm {
namespace {

constexpr int64_t kDims[] = {1, 5, 16, 31, 96, 576, 1000};

TEST(RmsNorm, EqualsAPlainLoopOnEveryInstructionSet) {
  Random random(21);
  for (const int64_t dim : kDims) {
    for (const int64_t rows : {1, 3, 40}) {
      const std::vector<float> x = random.normals(rows * dim), r = random.normals(rows * dim),
                               weight = random.normals(dim);
      CpuBackend reference(*kernels_scalar(), 1);
      std::vector<float> want(x.size()), want_added(x.size()), want_residual = r;
      reference.rms_norm(x.data(), weight.data(), 1e-5f, rows, dim, want.data());
      reference.add_rms_norm(want_residual.data(), x.data(), weight.data(), 1e-5f, rows, dim,
                             want_added.data());
      for (int64_t t = 0; t < rows; ++t) {
        double sum = 0, sum_added = 0;
        for (int64_t i = 0; i < dim; ++i) {
          const double v = x[t * dim + i], added = double{x[t * dim + i]} + r[t * dim + i];
          sum += v * v;
          sum_added += added * added;
        }
        for (int64_t i = 0; i < dim; ++i) {
          const double v = x[t * dim + i], added = double{x[t * dim + i]} + r[t * dim + i];
          ASSERT_NEAR(want[t * dim + i], v / std::sqrt(sum / dim + 1e-5) * weight[i], 1e-4);
          ASSERT_NEAR(want_added[t * dim + i],
                      added / std::sqrt(sum_added / dim + 1e-5) * weight[i], 1e-4);
          ASSERT_FLOAT_EQ(want_residual[t * dim + i], x[t * dim + i] + r[t * dim + i]);
        }
      }
      for (const KernelTable* kernels : all_kernels()) {
        CpuBackend backend(*kernels, 2);
        std::vector<float> got = x, added(x.size()), residual = r;
        backend.rms_norm(got.data(), weight.data(), 1e-5f, rows, dim, got.data());  // in place
        backend.add_rms_norm(residual.data(), x.data(), weight.data(), 1e-5f, rows, dim,
                             added.data());
        EXPECT_TRUE(same_bits(got, want)) << kernels->name << " dim " << dim;
        EXPECT_TRUE(same_bits(added, want_added)) << kernels->name;
        EXPECT_TRUE(same_bits(residual, want_residual)) << kernels->name;
        for (int64_t t = 0; t < rows; ++t) {
          std::vector<float> row(static_cast<size_t>(dim));
          backend.rms_norm(x.data() + t * dim, weight.data(), 1e-5f, 1, dim, row.data());
          EXPECT_TRUE(same_bits(row, {want.begin() + t * dim, want.begin() + (t + 1) * dim}));
        }
      }
    }
  }
}

TEST(SiluMul, EqualsAPlainLoopOnEveryInstructionSet) {
  Random random(22);
  for (const int64_t dim : kDims) {
    const int64_t rows = 7;
    std::vector<float> x = random.normals(rows * 2 * dim);
    for (float& v : x) v *= 8;
    if (dim > 4) x[0] = -200, x[1] = 200, x[2] = 0, x[3] = -88.5f;
    std::vector<float> want(static_cast<size_t>(rows * dim));
    CpuBackend reference(*kernels_scalar(), 1);
    reference.silu_mul(x.data(), rows, dim, want.data());
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < dim; ++i) {
        const double g = x[t * 2 * dim + i], u = x[t * 2 * dim + dim + i];
        const double exact = g / (1 + std::exp(-g)) * u;
        ASSERT_NEAR(want[t * dim + i], exact, 1e-6 * std::fabs(exact) + 1e-30) << g;
      }
    }
    for (const KernelTable* kernels : all_kernels()) {
      CpuBackend backend(*kernels, 2);
      std::vector<float> got(want.size());
      backend.silu_mul(x.data(), rows, dim, got.data());
      EXPECT_TRUE(same_bits(got, want)) << kernels->name << " dim " << dim;
    }
  }
}

TEST(GatherRows, Copies) {
  Random random(23);
  CpuBackend backend(*all_kernels().front(), 2);
  const std::vector<float> x = random.normals(10 * 7);
  const std::vector<int32_t> rows = {9, 0, 3, 3};
  std::vector<float> out(4 * 7);
  backend.gather_rows(x.data(), rows, 7, out.data());
  for (size_t r = 0; r < rows.size(); ++r)
    for (int i = 0; i < 7; ++i) EXPECT_EQ(out[r * 7 + i], x[rows[r] * 7 + i]);
}

TEST(Allocate, IsAlignedAndZero) {
  CpuBackend backend(*all_kernels().front(), 1);
  for (const int64_t n : {0, 1, 100, 100000}) {
    const float* p = backend.allocate(n);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(p[i], 0);
  }
}

}  // namespace
}  // namespace nanovllm
