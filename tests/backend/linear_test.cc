// linear against a plain loop in double, and its promise: the same bits on every instruction set,
// for any number of rows and threads.
#include "backend_test_util.h"

namespace nanovllm {
namespace {

struct Case {
  DType dtype;
  WeightType type;
};

// Every stored type as it is (quantized ones in integers), in float32, and quantized at load.
std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const DType dtype : kAllDTypes)
    for (const WeightType type : {WeightType::kAsStored, WeightType::kFloat32})
      cases.push_back({dtype, type});
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4})
    cases.push_back({DType::kF32, type});
  cases.push_back({DType::kQ4_0, WeightType::kInt4});
  return cases;
}

// What two neighbours' quants may sum to, for activations of 8 bits; 0 for 16 bits.
int most_neighbours(const Case& c) {
  if (c.dtype == DType::kQ8_0) return 127;
  if (c.type == WeightType::kInt8) return 181;
  return c.type == WeightType::kInt4 ? 254 : 0;
}

bool in_integers(const Case& c) {
  if (c.type == WeightType::kInt8 || c.type == WeightType::kInt4) return true;
  return dtype_block_elements(c.dtype) > 1 && c.type != WeightType::kFloat32;
}

// Kept as bfloat16.
bool narrow_floats(const Case& c) {
  return c.type == WeightType::kAsStored && (c.dtype == DType::kF32 || c.dtype == DType::kBF16);
}

// x as integer products see it: groups of 32 in steps of the largest magnitude over 127, or of the
// largest sum of two neighbours over `limit` if that is more; of the largest over 127 * 256 for
// limit 0. `largest_error` of each element is half a step.
std::vector<float> quantized_rows(const std::vector<float>& x, int64_t rows, int64_t k, int limit,
                                  std::vector<float>* largest_error) {
  std::vector<float> out(x.size());
  largest_error->resize(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k0 = 0; k0 < k; k0 += 32) {
      const auto at = [&](int64_t i) { return k0 + i < k ? x[r * k + k0 + i] : 0.0f; };
      float largest = 0, largest_pair = 0;
      for (int64_t i = 0; i < 32; i += 2) {
        largest = std::max({largest, std::fabs(at(i)), std::fabs(at(i + 1))});
        largest_pair = std::max(largest_pair, std::fabs(at(i)) + std::fabs(at(i + 1)));
      }
      const float step =
          limit == 0 ? largest * (1.0f / (127 * 256))
                     : std::max(largest * (1.0f / 127), largest_pair / static_cast<float>(limit));
      const float inverse = 1 / step;
      for (int64_t i = 0; i < std::min<int64_t>(32, k - k0); ++i) {
        out[r * k + k0 + i] = static_cast<float>(std::nearbyint(double{at(i)} * inverse) * step);
        (*largest_error)[r * k + k0 + i] = step / 2;
      }
    }
  }
  return out;
}

TEST(Linear, EqualsAPlainLoop) {
  Random random(11);
  CpuBackend backend(*all_kernels().front(), 2);
  for (const Case& c : all_cases()) {
    const int64_t block = dtype_block_elements(c.dtype);
    const int limit = most_neighbours(c);
    for (const int64_t n : {1, 16, 33}) {
      for (const int64_t k : {block == 1 ? 1 : block, block == 1 ? 333 : 3 * block}) {
        RandomTensor t("w", c.dtype, n, k, random);
        const auto w = backend.pack({&t.view, 1}, c.type);
        std::vector<float> weights(static_cast<size_t>(n * k));
        std::vector<int32_t> ids(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; ++i) ids[i] = static_cast<int32_t>(i);
        backend.embed(*w, 0, ids, weights.data());
        for (const int64_t rows : {1, 2, 7, kFewCases ? 13 : 130}) {
          const std::vector<float> x = random.normals(rows * k), bias = random.normals(n);
          std::vector<float> errors;
          const std::vector<float> xq = quantized_rows(x, rows, k, limit, &errors);
          for (const float* b : {bias.data(), static_cast<const float*>(nullptr)}) {
            const std::vector<float> got = run_linear(backend, *w, x, rows, b);
            for (int64_t r = 0; r < rows; ++r) {
              for (int64_t i = 0; i < n; ++i) {
                SCOPED_TRACE(std::string(dtype_name(c.dtype)) + " " + std::to_string(n) + "x" +
                             std::to_string(k) + " row " + std::to_string(r));
                const float start = b ? b[i] : 0;
                float chain = 0;
                double sum = start, quantized = start, magnitude = 1, error = 0;
                for (int64_t j = 0; j < k; ++j) {
                  const double wj = weights[i * k + j];
                  chain = std::fma(weights[i * k + j], x[r * k + j], chain);
                  sum += wj * x[r * k + j];
                  quantized += wj * xq[r * k + j];
                  magnitude += std::fabs(wj * x[r * k + j]);
                  error += std::fabs(wj) * errors[r * k + j];
                }
                chain += start;
                if (in_integers(c)) {
                  ASSERT_NEAR(got[r * n + i], quantized, 2e-5 * magnitude);
                  ASSERT_NEAR(got[r * n + i], sum, 2e-5 * magnitude + 1.01 * error);
                } else if (c.dtype != DType::kBF16 && c.dtype != DType::kF32) {
                  ASSERT_EQ(got[r * n + i], chain);  // one chain in the order of k, exactly
                } else {
                  ASSERT_NEAR(got[r * n + i], chain, 1e-2 * magnitude);  // perhaps bfloat16 pairs
                }
                ASSERT_NEAR(chain, sum, 1e-5 * magnitude);
              }
            }
          }
        }
      }
    }
  }
}

// The largest quants times the largest activations: sums of 16 bits must hold them.
TEST(Linear, HoldsTheLargestSums) {
  constexpr int64_t kN = 16, kK = 64, kRows = 5;
  for (const DType dtype : {DType::kQ4_0, DType::kQ8_0}) {
    for (const WeightType type : {WeightType::kAsStored, WeightType::kInt4}) {
      for (const int quant : {0, 15}) {
        std::vector<std::byte> bytes(static_cast<size_t>(kN * dtype_row_bytes(dtype, kK)));
        const bool four_bits = dtype == DType::kQ4_0;
        const float weight = four_bits ? quant - 8 : quant == 0 ? -128 : 127;
        for (size_t i = 0; i < bytes.size(); ++i) {
          const size_t at = i % dtype_block_bytes(dtype);
          const uint16_t one = 0x3c00;
          bytes[i] = at < 2 ? reinterpret_cast<const std::byte*>(&one)[at]
                            : static_cast<std::byte>(four_bits ? quant * 0x11 : int(weight));
        }
        const TensorView view = {"w", dtype, {kN, kK}, bytes};
        const std::vector<float> x(kRows * kK, -1.0f);
        for (const KernelTable* kernels : all_kernels()) {
          CpuBackend backend(*kernels, 1);
          const auto w = backend.pack({&view, 1}, type);
          for (const int64_t rows : {int64_t{1}, kRows})
            for (const float got : run_linear(backend, *w, x, rows, nullptr))
              ASSERT_NEAR(got, -weight * kK, 0.01 * std::fabs(weight) * kK)
                  << kernels->name << " " << rows;
        }
      }
    }
  }
}

TEST(Linear, SameBitsForAnyRowsThreadsAndInstructionSet) {
  Random random(12);
  for (const Case& c : all_cases()) {
    const int64_t block = dtype_block_elements(c.dtype);
    const int64_t n = 69, k = block == 1 ? 301 : (block == 32 ? 288 : 512),
                  rows = kFewCases ? 25 : 125;
    RandomTensor t("w", c.dtype, n, k, random);
    const std::vector<float> x = random.normals(rows * k), bias = random.normals(n);
    CpuBackend reference(*kernels_scalar(), 1);
    const auto w0 = reference.pack({&t.view, 1}, c.type);
    const std::vector<float> want = run_linear(reference, *w0, x, rows, bias.data());
    for (const KernelTable* kernels : all_kernels()) {
      std::vector<float> own;
      for (const int threads : {1, 2, 3}) {
        if (threads == 3 && (kFewCases || kernels == kernels_scalar()))
          continue;  // slow, and shows nothing more
        SCOPED_TRACE(std::string(dtype_name(c.dtype)) + (in_integers(c) ? " in integers " : " ") +
                     kernels->name + " threads " + std::to_string(threads));
        CpuBackend backend(*kernels, threads);
        const auto w = backend.pack({&t.view, 1}, c.type);
        // Pairs of bfloat16 round x: their own bits, near the others' (2^-8 of each product at
        // most).
        if (kernels->has_pairs && narrow_floats(c) && threads == 1) {
          own = run_linear(backend, *w, x, rows, bias.data());
          for (size_t i = 0; i < own.size(); ++i) ASSERT_NEAR(own[i], want[i], 0.5) << i;
        }
        const std::vector<float>& expected = kernels->has_pairs && narrow_floats(c) ? own : want;
        EXPECT_TRUE(same_bits(run_linear(backend, *w, x, rows, bias.data()), expected));
        for (const int64_t chunk : {1, 2, 5, 6, 13}) {
          if ((chunk == 5 || chunk == 6) && (kFewCases || kernels == kernels_scalar()))
            continue;  // the rows in small calls
          std::vector<float> got(want.size());
          for (int64_t r = 0; r < rows; r += chunk)
            backend.linear(*w, bias.data(), x.data() + r * k, std::min(chunk, rows - r),
                           got.data() + r * n);
          EXPECT_TRUE(same_bits(got, expected)) << "in chunks of " << chunk;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nanovllm
