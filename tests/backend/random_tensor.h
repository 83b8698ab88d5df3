// Random tensors of every type, and comparison bit for bit: what the tests of all backends share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/tensor.h"
#include "formats/quantization.h"

namespace nanovllm {

inline constexpr DType kAllDTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                       DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                       DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  int64_t integer(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  float normal() { return std::normal_distribution<float>()(engine_); }
  std::vector<float> normals(int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = normal();
    return v;
  }

 private:
  std::mt19937 engine_;
};

// A matrix with its bytes, which start at an odd address.
struct RandomTensor {
  std::vector<std::byte> bytes;
  TensorView view;
  std::vector<float> values;  // dequantized, [rows, columns]

  RandomTensor(const std::string& name, DType dtype, int64_t rows, int64_t columns,
               Random& random) {
    const int64_t row_bytes = dtype_row_bytes(dtype, columns);
    bytes.resize(static_cast<size_t>(rows * row_bytes + 1));
    std::byte* data = bytes.data() + 1;
    for (int64_t i = 0; i < rows * row_bytes; ++i)
      data[i] = static_cast<std::byte>(random.integer(0, 255));
    // Scales, and plain floats, must be sensible numbers; a half below 0x2c00 is below 1/16.
    const auto put_half = [&](std::byte* p) {
      const uint16_t h =
          static_cast<uint16_t>(random.integer(0, 0x2bff) | random.integer(0, 1) << 15);
      std::memcpy(p, &h, 2);
    };
    for (std::byte* p = data; p < data + rows * row_bytes; p += dtype_block_bytes(dtype)) {
      switch (dtype) {
        case DType::kF32: {
          const float f = random.normal();
          std::memcpy(p, &f, 4);
          break;
        }
        case DType::kBF16: {
          const uint16_t b = float_to_bfloat16(random.normal());
          std::memcpy(p, &b, 2);
          break;
        }
        case DType::kQ6_K:
          put_half(p + 208);
          break;
        case DType::kQ4_1:
        case DType::kQ5_1:
        case DType::kQ4_K:
        case DType::kQ5_K:
          put_half(p + 2);
          [[fallthrough]];
        default:
          put_half(p);
      }
    }
    view = {name, dtype, {rows, columns}, {data, static_cast<size_t>(rows * row_bytes)}};
    values.resize(static_cast<size_t>(rows * columns));
    for (int64_t r = 0; r < rows; ++r)
      dequantize_row(dtype, data + r * row_bytes, values.data() + r * columns, columns);
  }
};

// Equal bit for bit, or the first difference.
inline ::testing::AssertionResult same_bits(const std::vector<float>& a,
                                            const std::vector<float>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(&a[i], &b[i], 4) != 0)
      return ::testing::AssertionFailure() << "element " << i << ": " << a[i] << " and " << b[i];
  return ::testing::AssertionSuccess();
}

}  // namespace nanovllm
