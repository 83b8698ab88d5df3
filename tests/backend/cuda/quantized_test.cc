// Quantized weights: the values that the CPU backend has, and products with them against plain
// loops in double, for few rows and for many.
#include "backend/cuda/pack_quantized.h"
#include "backend/cuda/quantized_matmul.h"
#include "backend/cuda/uploader.h"
#include "cuda_test_util.h"
#include "formats/quantize.h"

namespace nanovllm {
namespace {

constexpr WeightType kTypes[] = {WeightType::kInt8, WeightType::kInt4, WeightType::kFloat8};
const char* name(WeightType type) {
  return type == WeightType::kInt8 ? "int8" : type == WeightType::kInt4 ? "int4" : "fp8";
}

// All rows of a table, as embed() gives them.
std::vector<float> rows_of(Backend& backend, const Weight& table, float* out) {
  Batch batch = one_token_each(static_cast<int32_t>(table.out_features));
  backend.run(batch, [&](const Batch& b) {
    backend.embed(table, 0, b.token_ids, out);
    return true;
  });
  const std::span<float> host = backend.to_host(out, table.out_features * table.in_features);
  return {host.begin(), host.end()};
}

// The CPU's values, bit for bit; those of fp8, which it does not have, as near to the weights as
// any.
TEST(CudaQuantized, TheCpusValues) {
  Device device(false);
  const auto cpu = make_cpu_backend(1);
  Random random(81);
  for (const WeightType type : kTypes) {
    for (const int64_t columns : {1, 32, 37, 264}) {
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        const RandomTensor table("table", dtype, 21, columns, random);
        const std::string what =
            std::string(name(type)) + ", " + dtype_name(dtype) + ", " + std::to_string(columns);
        const auto weight = device.backend->pack({&table.view, 1}, type);
        const int64_t groups = (columns + 31) / 32;
        EXPECT_EQ(weight->bytes, type == WeightType::kInt8   ? 32 * groups * (32 + 4)
                                 : type == WeightType::kInt4 ? 32 * groups * (16 + 4)
                                                             : 32 * (groups * 32 + 4));
        EXPECT_EQ(weight->bytes, device.backend->packed_bytes({&table.view, 1}, type));
        float* const out = device.constants(std::vector<float>(64 * columns));
        const std::vector<float> got = rows_of(*device.backend, *weight, out);
        if (type != WeightType::kFloat8) {
          const auto expected = cpu->pack({&table.view, 1}, type);
          EXPECT_TRUE(same_bits(got, rows_of(*cpu, *expected, cpu->allocate(21 * columns))))
              << what;
          continue;
        }
        for (int64_t row = 0; row < 21; ++row) {
          const float* w = table.values.data() + row * columns;
          float largest = 0;
          for (int64_t k = 0; k < columns; ++k) largest = std::max(largest, std::fabs(w[k]));
          for (int64_t k = 0; k < columns; ++k) {
            float least = INFINITY;
            for (int bits = 0; bits < 256; ++bits)
              least = std::fmin(least, std::fabs(float8_to_float(static_cast<uint8_t>(bits)) *
                                                     (largest / kFloat8Largest) -
                                                 w[k]));
            ASSERT_LE(std::fabs(got[row * columns + k] - w[k]), least + 1e-6f * largest) << what;
          }
        }
      }
    }
  }
}

// What a rank holds: rows that lie apart in the file.
TEST(CudaQuantized, Slices) {
  Device device(false);
  Random random(87);
  const auto cpu = make_cpu_backend(1);
  const RandomTensor whole("whole", DType::kBF16, 50, 200, random);
  const TensorView slice = slice_rows(slice_columns(whole.view, 64, 70), 9, 20);
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    const auto weight = device.backend->pack({&slice, 1}, type),
               expected = cpu->pack({&slice, 1}, type);
    float* const out = device.constants(std::vector<float>(64 * 70));
    EXPECT_TRUE(same_bits(rows_of(*device.backend, *weight, out),
                          rows_of(*cpu, *expected, cpu->allocate(20 * 70))))
        << name(type);
  }
}

TEST(CudaQuantized, Products) {
  Device device(false);
  Backend& backend = *device.backend;
  Random random(82);
  for (const WeightType type : kTypes) {
    for (const auto& [out_features, in] :
         {std::pair{5, 32}, std::pair{16, 37}, std::pair{33, 264}, std::pair{20, 2080}}) {
      const RandomTensor tensor("w", DType::kBF16, out_features, in, random);
      const auto weight = backend.pack({&tensor.view, 1}, type);
      const std::vector<float> w =
          rows_of(backend, *weight, device.constants(std::vector<float>(64 * in)));
      for (const int64_t rows : {1, 7, 9, 17, 32, 33}) {
        const std::vector<float> x = rounded(random.normals(rows * in), false);
        std::vector<double> want;
        double largest = 1;
        for (int64_t t = 0; t < rows; ++t) {
          for (int64_t n = 0; n < out_features; ++n) {
            double sum = 0;
            for (int64_t k = 0; k < in; ++k) sum += double{x[t * in + k]} * w[n * in + k];
            want.push_back(sum);
            largest = std::max(largest, std::fabs(sum));
          }
        }
        const std::string what = std::string(name(type)) + ", " + std::to_string(out_features) +
                                 " x " + std::to_string(in) + ", " + std::to_string(rows) + " rows";
        const float* const input = device.activations(x);
        float* const out = device.space(rows * out_features);
        backend.linear(*weight, nullptr, input, rows, out);
        expect_near(device.read(out, rows * out_features), want, 5e-3 * largest, what);
        float* const logits = device.constants(std::vector<float>(rows * out_features));
        backend.logits(*weight, input, rows, logits);
        const std::span<float> host = backend.to_host(logits, rows * out_features);
        expect_near({host.begin(), host.end()}, want,
                    (rows <= cuda::kFewRows ? 1e-5 : 5e-3) * largest, what + " logits");
      }
    }
  }
}

// A row's product is the same bits alone and beside any others, up to kFewRows of them.
TEST(CudaQuantized, ARowDoesNotDependOnTheOthers) {
  Device device(false);
  Random random(83);
  constexpr int64_t kIn = 300, kOut = 24;
  for (const WeightType type : kTypes) {
    const RandomTensor tensor("w", DType::kBF16, kOut, kIn, random);
    const auto weight = device.backend->pack({&tensor.view, 1}, type);
    const std::vector<float> x = random.normals(cuda::kFewRows * kIn);
    std::vector<float> all;
    for (const int64_t rows : {32, 20, 16, 9, 8, 3, 1}) {
      float* const out = device.constants(std::vector<float>(rows * kOut));
      // The last rows, so that each has another place.
      device.backend->logits(*weight, device.activations({x.end() - rows * kIn, x.end()}), rows,
                             out);
      const std::vector<float> got = device.read_floats(out, rows * kOut);
      if (all.empty()) all = got;
      EXPECT_TRUE(same_bits(got, {all.end() - rows * kOut, all.end()}))
          << name(type) << ' ' << rows;
    }
  }
}

// A weight that is dequantized in several slabs.
TEST(CudaQuantized, Slabs) {
  Random random(84);
  constexpr int64_t kIn = 40, kOut = 300, kRows = 35;
  const RandomTensor tensor("w", DType::kBF16, kOut, kIn, random);
  Device device(false);
  cuda::Stream stream;
  cuda::Uploader uploader(stream);
  cuda::DeviceBuffer memory(cuda::matrix_bytes(cuda::WeightFormat::kInt8, kOut, kIn));
  const cuda::QuantizedMatrix matrix = {cuda::WeightFormat::kInt8, memory.as<std::byte>(), kOut,
                                        kIn};
  uploader.upload_quantized({&tensor.view, 1}, matrix, memory.as<std::byte>());
  uploader.finish();
  const float* const x = device.activations(random.normals(kRows * kIn));
  cuda::Matmul matmul;
  const auto product = [&](int64_t scratch_rows) {
    const cuda::DeviceBuffer buffer(scratch_rows * kIn * 2);
    float* const out = device.constants(std::vector<float>(kRows * kOut));
    cuda::quantized_linear(matmul, {buffer.as<std::byte>(), scratch_rows * kIn * 2}, matrix, x,
                           kRows, cuda::Element::kFloat32, out, stream.get());
    stream.synchronize();
    return device.read_floats(out, kRows * kOut);
  };
  const std::vector<float> whole = product(1000), cut = product(150);
  expect_near(cut, {whole.begin(), whole.end()}, 1e-5, "slabs");
  EXPECT_THROW(product(100), Error);
}

// q, k and v of different types: what four bits and eight hold stays, anything else is bfloat16.
TEST(CudaQuantized, PartsOfSeveralTypes) {
  Device device(false);
  Random random(85);
  const RandomTensor four("a", DType::kQ4_1, 5, 256, random),
      eight("b", DType::kQ8_0, 20, 256, random), super("c", DType::kQ4_K, 3, 256, random),
      plain("d", DType::kF16, 4, 256, random);
  const auto check = [&](const RandomTensor& a, const RandomTensor& b, WeightType type,
                         cuda::WeightFormat format) {
    const TensorView parts[] = {a.view, b.view};
    EXPECT_EQ(cuda::weight_format(parts, type), format);
    const auto weight = device.backend->pack(parts, type);
    float* const out = device.constants(std::vector<float>(64 * 256));
    std::vector<double> want(a.values.begin(), a.values.end());
    want.insert(want.end(), b.values.begin(), b.values.end());
    expect_near(rows_of(*device.backend, *weight, out), want,
                format == cuda::WeightFormat::kPlain ? 5e-3 : 0, "parts");
  };
  check(four, four, WeightType::kAsStored, cuda::WeightFormat::kInt4);
  check(four, eight, WeightType::kInt4, cuda::WeightFormat::kInt8);
  check(four, super, WeightType::kInt8, cuda::WeightFormat::kPlain);
  check(plain, eight, WeightType::kAsStored, cuda::WeightFormat::kPlain);
}

TEST(CudaQuantized, BrokenRowsAreZeros) {
  Device device(false);
  std::vector<float> values(4 * 32, 1.0f);
  values[3] = INFINITY, values[40] = NAN;
  const TensorView view = {"w", DType::kF32, {4, 32}, std::as_bytes(std::span(values))};
  for (const WeightType type : kTypes) {
    const auto weight = device.backend->pack({&view, 1}, type);
    float* const out = device.constants(std::vector<float>(64 * 32));
    const std::vector<float> rows = rows_of(*device.backend, *weight, out);
    for (int i = 0; i < 4 * 32; ++i) EXPECT_NEAR(rows[i], i < 64 ? 0 : 1, 0.02) << i;
  }
}

TEST(CudaQuantized, TheCpuHasNoFloat8) {
  Random random(86);
  const RandomTensor tensor("w", DType::kBF16, 4, 32, random);
  try {
    make_cpu_backend(1)->packed_bytes({&tensor.view, 1}, WeightType::kFloat8);
    FAIL() << "fp8";
  } catch (const InvalidArgument& e) {
    EXPECT_EQ(std::string(e.what()),
              "--quantization: is fp8; on the CPU, none, int8 and int4 are allowed");
  }
}

}  // namespace
}  // namespace nanovllm
