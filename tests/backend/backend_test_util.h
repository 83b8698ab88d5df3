// What the backend's tests share: random tensors of every type, backends on every instruction set
// of this machine, and comparison bit for bit.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/dispatch.h"
#include "backend/emulated/tables.h"
#include "formats/quantization.h"

namespace nanovllm {

// Under an emulator or a sanitizer everything takes ten to forty times as long: the largest tests
// take fewer cases there.
#ifdef NANO_VLLM_FEW_CASES
inline constexpr bool kFewCases = true;
#else
inline constexpr bool kFewCases = false;
#endif

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

// Every instruction set of this machine, best first, then the emulated ones.
inline std::vector<const KernelTable*> all_kernels() {
  std::vector<const KernelTable*> tables = supported_kernels();
  for (const KernelTable* kernels : emulated_kernels()) tables.push_back(kernels);
  return tables;
}

inline std::vector<float> run_linear(Backend& backend, const Weight& w, const std::vector<float>& x,
                                     int64_t rows, const float* bias) {
  std::vector<float> out(static_cast<size_t>(rows * w.out_features), NAN);
  backend.linear(w, bias, x.data(), rows, out.data());
  return out;
}

}  // namespace nanovllm
