// Packing keeps every weight: what embed reads back from the panels is what dequantize_row gives.
#include "backend_test_util.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::vector<float> read_back(Backend& backend, const Weight& w) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < w.out_features; ++i) ids.push_back(static_cast<int32_t>(i));
  std::vector<float> out(static_cast<size_t>(w.out_features * w.in_features), NAN);
  backend.embed(w, 0, ids, out.data());
  return out;
}

// Values, not bits: (q - 8) * scale may be -0 where fma(q, scale, -8 * scale) is +0.
void expect_equal_values(const std::vector<float>& got, const std::vector<float>& want) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]) << "element " << i;
}

TEST(Packing, KeepsEveryTypeAsStored) {
  Random random(1);
  for (const KernelTable* kernels : all_kernels()) {
    CpuBackend backend(*kernels, 2);
    for (const DType dtype : kAllDTypes) {
      const int64_t block = dtype_block_elements(dtype);
      for (const int64_t rows : {1, 15, 16, 50}) {
        for (const int64_t k : {block, 3 * block, block == 1 ? 37 : 2 * block}) {
          SCOPED_TRACE(std::string(kernels->name) + " " + dtype_name(dtype) + " " +
                       std::to_string(rows) + "x" + std::to_string(k));
          RandomTensor t("w", dtype, rows, k, random);
          const bool narrowed = dtype == DType::kF32;
          const auto w = backend.pack({&t.view, 1}, WeightType::kAsStored);
          EXPECT_EQ(w->out_features, rows);
          EXPECT_EQ(w->in_features, k);
          EXPECT_EQ(w->bytes, backend.packed_bytes({&t.view, 1}, WeightType::kAsStored));
          std::vector<float> want = t.values;
          if (narrowed)
            for (float& v : want) v = bfloat16_to_float(float_to_bfloat16(v));
          expect_equal_values(read_back(backend, *w), want);
        }
      }
    }
  }
}

TEST(Packing, ConvertsUnquantizedTypes) {
  Random random(2);
  CpuBackend backend(*all_kernels().front(), 2);
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    RandomTensor t("w", dtype, 21, 45, random);
    expect_equal_values(read_back(backend, *backend.pack({&t.view, 1}, WeightType::kFloat32)),
                        t.values);
    std::vector<float> narrowed = t.values;
    for (float& v : narrowed) v = bfloat16_to_float(float_to_bfloat16(v));
    expect_equal_values(read_back(backend, *backend.pack({&t.view, 1}, WeightType::kBFloat16)),
                        narrowed);
  }
  // Block-quantized tensors stay as they are whatever is asked for.
  for (const WeightType type :
       {WeightType::kFloat32, WeightType::kBFloat16, WeightType::kInt8, WeightType::kInt4}) {
    RandomTensor t("w", DType::kQ4_1, 21, 64, random);
    expect_equal_values(read_back(backend, *backend.pack({&t.view, 1}, type)), t.values);
  }
}

// int8: each weight is within half a step of its group of 32 (77 columns: the last group is short),
// and a little for scale and min, which are kept as halves. int4: the squared error of a group is
// no larger than with the extreme weight at -8, which is GGUF's Q4_0.
TEST(Packing, QuantizesWeightsInGroupsOf32) {
  Random random(3);
  CpuBackend backend(*all_kernels().front(), 1);
  constexpr int64_t kRows = 21, kColumns = 77;
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    RandomTensor t("w", dtype, kRows, kColumns, random);
    const auto int8 = read_back(backend, *backend.pack({&t.view, 1}, WeightType::kInt8));
    const auto int4 = read_back(backend, *backend.pack({&t.view, 1}, WeightType::kInt4));
    double total = 0, total_simple = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t k0 = 0; k0 < kColumns; k0 += 32) {
        const int64_t end = std::min(kColumns, k0 + 32);
        float extreme = 0, low = INFINITY, high = -INFINITY;
        for (int64_t k = k0; k < end; ++k) {
          low = std::min(low, t.values[r * kColumns + k]);
          high = std::max(high, t.values[r * kColumns + k]);
          if (std::fabs(t.values[r * kColumns + k]) > std::fabs(extreme))
            extreme = t.values[r * kColumns + k];
        }
        // A short group is filled up with zeros.
        if (end - k0 < 32) low = std::min(low, 0.0f), high = std::max(high, 0.0f);
        double error = 0, simple = 0;
        for (int64_t k = k0; k < end; ++k) {
          const float w = t.values[r * kColumns + k], step = extreme / -8;
          ASSERT_NEAR(int8[r * kColumns + k], w, (high - low) / 180 * 0.65f) << r << "," << k;
          error += std::pow(int4[r * kColumns + k] - w, 2);
          simple += std::pow(std::clamp(std::nearbyint(w / step), -8.0f, 7.0f) * step - w, 2);
        }
        ASSERT_LE(error, simple * 1.01 + 1e-12);
        total += error, total_simple += simple;
      }
    }
    EXPECT_LT(total, total_simple * 0.95);
  }
  const std::vector<float> zeros(64, 0.0f);
  const TensorView view = {"zeros", DType::kF32, {1, 64}, std::as_bytes(std::span(zeros))};
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4})
    expect_equal_values(read_back(backend, *backend.pack({&view, 1}, type)), zeros);
}

TEST(Packing, StacksPartsOfDifferentTypes) {
  Random random(4);
  CpuBackend backend(*all_kernels().front(), 2);
  std::vector<RandomTensor> tensors;
  for (const DType dtype : {DType::kQ4_K, DType::kQ4_K, DType::kQ6_K, DType::kF32, DType::kQ8_0})
    tensors.emplace_back("part", dtype, 19 + static_cast<int64_t>(tensors.size()), 512, random);
  std::vector<TensorView> views;
  std::vector<float> want;
  for (const RandomTensor& t : tensors) {
    views.push_back(t.view);
    want.insert(want.end(), t.values.begin(), t.values.end());
  }
  const auto w = backend.pack(views, WeightType::kFloat32);
  EXPECT_EQ(w->bytes, backend.packed_bytes(views, WeightType::kFloat32));
  expect_equal_values(read_back(backend, *w), want);

  const std::vector<float> x = random.normals(512 * 3), bias = random.normals(w->out_features);
  const std::vector<float> got = run_linear(backend, *w, x, 3, bias.data());
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t n = 0; n < w->out_features; ++n) {
      double sum = bias[n], magnitude = 0;
      for (int64_t k = 0; k < 512; ++k) {
        sum += double{x[r * 512 + k]} * want[n * 512 + k];
        magnitude += std::fabs(double{x[r * 512 + k]} * want[n * 512 + k]);
      }
      ASSERT_NEAR(got[r * w->out_features + n], sum, 1e-5 * (magnitude + 1));
    }
  }
}

// Slices are packed as if they were whole tensors of that size, out of the middle of the others'
// bytes.
TEST(Packing, PacksSlices) {
  Random random(6);
  CpuBackend backend(*all_kernels().front(), 2);
  for (const DType dtype : kAllDTypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const int64_t block = dtype_block_elements(dtype), columns = block == 1 ? 45 : 3 * block;
    const int64_t first = block == 1 ? 13 : block, count = block == 1 ? 21 : block;
    RandomTensor t("w", dtype, 50, columns, random);
    const TensorView view = slice_rows(slice_columns(t.view, first, count), 7, 29);
    EXPECT_EQ(view.shape, (std::vector<int64_t>{29, count}));
    EXPECT_EQ(view.data.data(),
              t.view.data.data() + 7 * t.view.stride() + dtype_row_bytes(dtype, first));
    EXPECT_EQ(std::ssize(view.data), 28 * t.view.stride() + dtype_row_bytes(dtype, count));
    std::vector<float> want;
    for (int64_t row = 7; row < 36; ++row)
      for (int64_t k = first; k < first + count; ++k) want.push_back(t.values[row * columns + k]);
    const auto w = backend.pack({&view, 1}, WeightType::kFloat32);
    EXPECT_EQ(w->bytes, backend.packed_bytes({&view, 1}, WeightType::kFloat32));
    expect_equal_values(read_back(backend, *w), want);
    if (block > 1) {
      EXPECT_THROW(slice_columns(t.view, block / 2, block), Error);
    }
    EXPECT_THROW(slice_columns(t.view, block, columns), Error);
    EXPECT_THROW(slice_rows(t.view, 40, 11), Error);
  }
}

// A rank's part of the embedding: its rows where they belong, zeros for the other ranks'.
TEST(Packing, EmbedsTheRowsItHolds) {
  Random random(7);
  CpuBackend backend(*all_kernels().front(), 1);
  RandomTensor t("w", DType::kF32, 20, 8, random);
  const auto w = backend.pack({&t.view, 1}, WeightType::kFloat32);
  const std::vector<int32_t> ids = {99, 100, 119, 120, 0, 107};
  std::vector<float> out(ids.size() * 8, NAN), want;
  backend.embed(*w, 100, ids, out.data());
  for (const int32_t id : ids)
    for (int64_t k = 0; k < 8; ++k)
      want.push_back(id < 100 || id >= 120 ? 0.0f : t.values[(id - 100) * 8 + k]);
  expect_equal_values(out, want);
}

TEST(Packing, RefusesWhatItCannotPack) {
  Random random(5);
  CpuBackend backend(*all_kernels().front(), 1);
  RandomTensor a("a", DType::kBF16, 4, 8, random), b("b", DType::kBF16, 4, 9, random);
  const auto refuse = [&](std::vector<TensorView> parts) {
    EXPECT_THROW(backend.pack(parts, WeightType::kAsStored), Error);
    EXPECT_THROW(backend.packed_bytes(parts, WeightType::kAsStored), Error);
  };
  refuse({});
  refuse({a.view, b.view});  // another in_features
  TensorView vector = a.view;
  vector.shape = {32};
  refuse({vector});
  TensorView short_data = a.view;
  short_data.data = short_data.data.first(10);
  refuse({short_data});
  TensorView half_block = a.view;
  half_block.dtype = DType::kQ8_0;
  refuse({half_block});
  TensorView huge = a.view;
  huge.shape = {int64_t{1} << 40, int64_t{1} << 40};
  refuse({huge});
}

}  // namespace
}  // namespace nanovllm
