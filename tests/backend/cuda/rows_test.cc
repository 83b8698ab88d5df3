// The kernels on rows and the products, against plain loops in double, in float32 and in bfloat16.
#include "backend/cuda/kernels.h"
#include "cuda_test_util.h"

namespace nanovllm {
namespace {

constexpr int64_t kDims[] = {1, 5, 8, 31, 96, 576, 1000, 5000};
constexpr int64_t kRows[] = {1, 3, 40};
constexpr int64_t kMostRows = 16;  // that batches are padded to here
// Of float32 sums in another order, and of one rounding to bfloat16.
double tolerance(bool float32) { return float32 ? 2e-5 : 5e-3; }

class Rows : public ::testing::TestWithParam<bool> {
 protected:
  const bool float32_ = GetParam();
  Device device_{float32_};
  Backend& backend_ = *device_.backend;
  Random random_{41};

  bool stays_quantized(DType dtype) const { return !float32_ && dtype_block_elements(dtype) == 32; }
};

TEST_P(Rows, RmsNorm) {
  for (const int64_t dim : kDims) {
    for (const int64_t rows : kRows) {
      const std::vector<float> r = random_.normals(rows * dim), weight = random_.normals(dim),
                               x = rounded(random_.normals(rows * dim), float32_);
      std::vector<double> norm, sum_norm, sums;
      for (int64_t t = 0; t < rows; ++t) {
        double square = 0, square_sum = 0;
        for (int64_t i = t * dim; i < (t + 1) * dim; ++i) {
          sums.push_back(double{r[i]} + x[i]);
          square += double{r[i]} * r[i];
          square_sum += sums[i] * sums[i];
        }
        for (int64_t i = 0; i < dim; ++i) {
          norm.push_back(r[t * dim + i] / std::sqrt(square / dim + 1e-5) * weight[i]);
          sum_norm.push_back(sums[t * dim + i] / std::sqrt(square_sum / dim + 1e-5) * weight[i]);
        }
      }
      float* const residual = device_.constants(r);
      const float* const w = device_.constants(weight);
      float* const in = device_.activations(x);
      float* const out = device_.space(rows * dim);
      backend_.rms_norm(residual, w, 1e-5f, rows, dim, out);
      const std::string what = std::to_string(rows) + " x " + std::to_string(dim);
      expect_near(device_.read(out, rows * dim), norm, tolerance(float32_), what);
      backend_.add_rms_norm(residual, in, w, 1e-5f, rows, dim, in);  // as the model does: in place
      expect_near(device_.read(in, rows * dim), sum_norm, tolerance(float32_), what + " added");
      expect_near(device_.read_floats(residual, rows * dim), sums, 1e-6, what + " residual");
    }
  }
}

TEST_P(Rows, SiluMul) {
  for (const int64_t dim : kDims) {
    const int64_t rows = 7;
    std::vector<float> x = random_.normals(rows * 2 * dim);
    for (float& v : x) v *= 8;
    x[0] = -200;  // exp of its negative is infinite
    x = rounded(x, float32_);
    std::vector<double> want;
    for (int64_t t = 0; t < rows; ++t) {
      for (int64_t i = 0; i < dim; ++i) {
        const double gate = x[t * 2 * dim + i];
        want.push_back(gate / (1 + std::exp(-gate)) * x[t * 2 * dim + dim + i]);
      }
    }
    float* const out = device_.space(rows * dim);
    backend_.silu_mul(device_.activations(x), rows, dim, out);
    expect_near(device_.read(out, rows * dim), want, tolerance(float32_), std::to_string(dim));
  }
}

TEST_P(Rows, EmbedAndGather) {
  for (const int64_t dim : kDims) {
    const RandomTensor table("table", DType::kBF16, 50, dim, random_);
    const auto weight = backend_.pack({&table.view, 1}, device_.weight_type());
    Batch batch = one_token_each(5);
    batch.token_ids = {49, 0, 7, 7, 31};
    batch.logits_rows = {0, 1, 3, 4};
    const int64_t n = std::ssize(batch.token_ids);
    float* const out = device_.constants(std::vector<float>(kMostRows * dim));
    backend_.run(batch, [&](const Batch& b) {
      backend_.embed(*weight, 0, b.token_ids, out);
      return true;
    });
    std::vector<double> want, want_gathered;
    for (const int32_t id : batch.token_ids)
      for (int64_t i = 0; i < dim; ++i) want.push_back(table.values[id * dim + i]);
    expect_near(device_.read_floats(out, n * dim), want, 0, "embed");

    const std::vector<float> x = rounded(random_.normals(n * dim), float32_);
    float* const gathered = device_.space(2 * dim);
    backend_.gather_rows(device_.activations(x), std::span(batch.logits_rows).subspan(2), dim,
                         gathered);
    for (const int32_t row : {3, 4})
      for (int64_t i = 0; i < dim; ++i) want_gathered.push_back(x[row * dim + i]);
    expect_near(device_.read(gathered, 2 * dim), want_gathered, 0, "gather");
  }
}

// What a rank holds: rows of the vocabulary, with zeros for the other ranks' tokens, and columns of
// a matrix, whose rows lie apart in the file.
TEST_P(Rows, EmbedsSlices) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kQ8_0, DType::kQ4_K}) {
    const int64_t block = dtype_block_elements(dtype), columns = block == 1 ? 40 : block;
    const RandomTensor table("table", dtype, 50, 3 * columns, random_);
    const TensorView slice = slice_rows(slice_columns(table.view, columns, columns), 7, 42);
    const auto weight = backend_.pack({&slice, 1}, device_.weight_type());
    Batch batch = one_token_each(6);
    batch.token_ids = {49, 0, 7, 48, 6, 31};
    const int64_t n = std::ssize(batch.token_ids);
    float* const out = device_.constants(std::vector<float>(kMostRows * columns, 1.0f));
    backend_.run(batch, [&](const Batch& b) {
      backend_.embed(*weight, 7, b.token_ids, out);
      return true;
    });
    std::vector<float> want;
    for (const int32_t id : batch.token_ids)
      for (int64_t i = 0; i < columns; ++i)
        want.push_back(id < 7 || id >= 49 ? 0.0f : table.values[id * 3 * columns + columns + i]);
    if (!stays_quantized(dtype)) want = rounded(want, float32_);
    expect_near(device_.read_floats(out, n * columns), {want.begin(), want.end()}, 0,
                dtype_name(dtype));
  }
}

// Every type of tensor, shapes that are aligned and that are not, stacks of several.
TEST_P(Rows, Linear) {
  for (const DType dtype : kAllDTypes) {
    const int64_t block = dtype_block_elements(dtype);
    for (const int64_t in : {block, 2 * block, block == 1 ? 37 : block, block == 1 ? 264 : block}) {
      for (const int64_t rows : kRows) {
        const RandomTensor a("a", dtype, 9, in, random_), b("b", dtype, 23, in, random_);
        const TensorView parts[] = {a.view, b.view};
        const auto weight = backend_.pack(parts, device_.weight_type());
        EXPECT_EQ(weight->bytes, backend_.packed_bytes(parts, device_.weight_type()));
        const std::vector<float> x = rounded(random_.normals(rows * in), float32_),
                                 bias = random_.normals(32);
        std::vector<float> w = a.values;
        w.insert(w.end(), b.values.begin(), b.values.end());
        if (!stays_quantized(dtype)) w = rounded(w, float32_);
        std::vector<double> want, with_bias;
        double largest = 1;
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t n = 0; n < 32; ++n) {
            double sum = 0;
            for (int64_t k = 0; k < in; ++k) sum += double{x[t * in + k]} * w[n * in + k];
            want.push_back(sum);
            with_bias.push_back(sum + bias[n]);
            largest = std::max(largest, std::fabs(sum));
          }
        }
        const std::string what = std::string(dtype_name(dtype)) + ", " + std::to_string(in) +
                                 " x " + std::to_string(rows) + " rows";
        const float* const input = device_.activations(x);
        float* const out = device_.space(rows * 32);
        backend_.linear(*weight, nullptr, input, rows, out);
        expect_near(device_.read(out, rows * 32), want, tolerance(float32_) * largest, what);
        backend_.linear(*weight, device_.constants(bias), input, rows, out);
        expect_near(device_.read(out, rows * 32), with_bias, 2 * tolerance(float32_) * largest,
                    what + " with bias");
        // Logits are float32 whatever the activations are.
        float* const logits = device_.constants(std::vector<float>(rows * 32));
        backend_.logits(*weight, input, rows, logits);
        const std::span<float> host = backend_.to_host(logits, rows * 32);
        // Of many rows, quantized weights are rounded to bfloat16.
        const bool exact = rows <= cuda::kFewRows || !stays_quantized(dtype);
        expect_near({host.begin(), host.end()}, want,
                    exact ? 1e-5 * largest : tolerance(float32_) * largest, what + " logits");
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Rows, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "float32" : "bfloat16"; });

TEST(CudaBackend, SaysWhatItCannotDo) {
  char error[256] = "";
  const PluginOptions options = {.device = 1000};
  EXPECT_EQ(nano_vllm_make_backend(&options, error, sizeof error), nullptr);
  EXPECT_EQ(std::string(error).rfind("there is no CUDA device 1000: ", 0), 0) << error;

  Device device(false);
  Backend& backend = *device.backend;
  EXPECT_THROW(backend.allocate_kv_cache({1, 1, 16, 1, 64, KVType::kInt8}), InvalidArgument);
  EXPECT_THROW(backend.allocate_kv_cache({1, 1, 16, 1, 512, KVType::kBFloat16}), Error);
  EXPECT_THROW(backend.run(one_token_each(65), [](const Batch&) { return true; }), Error);
  try {
    backend.allocate(int64_t{1} << 50);
    FAIL() << "a petabyte";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), "cudaMalloc: of 4503599627370496 bytes: out of memory");
  }
  backend.allocate(10);  // and the error is forgotten
}

}  // namespace
}  // namespace nanovllm
