#include "formats/quantization.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "formats/json.h"
#include "formats/quantize.h"

namespace nanovllm {
namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2)
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

// Every number is its own nearest, and between two neighbours the nearer one, or the even one.
TEST(Float8, RoundsToTheNearest) {
  std::vector<float> numbers;
  for (int bits = 0; bits < 0x7f; ++bits) {
    numbers.push_back(float8_to_float(static_cast<uint8_t>(bits)));
    EXPECT_EQ(float_to_float8(numbers.back()), bits);
    EXPECT_EQ(float_to_float8(-numbers.back()), bits | 0x80);
  }
  EXPECT_EQ(numbers[1], 1.0f / 512);
  EXPECT_EQ(numbers[0x38], 1.0f);
  EXPECT_EQ(numbers.back(), 448.0f);
  for (int bits = 0; bits + 1 < 0x7f; ++bits) {
    const float a = numbers[bits], b = numbers[bits + 1], middle = (a + b) / 2;
    ASSERT_LT(a, b);
    EXPECT_EQ(float_to_float8(std::nextafter(middle, a)), bits);
    EXPECT_EQ(float_to_float8(middle), bits + bits % 2);
    EXPECT_EQ(float_to_float8(std::nextafter(middle, b)), bits + 1);
  }
  EXPECT_EQ(float_to_float8(1e9f), 0x7e);
  EXPECT_EQ(float_to_float8(-std::numeric_limits<float>::infinity()), 0xfe);
  EXPECT_TRUE(std::isnan(float8_to_float(float_to_float8(std::nanf("")))));
}

// The golden values come from the gguf Python package (tools/make_quantization_golden.py).
TEST(Quantization, EveryTypeDequantizesBitForBitAsGguf) {
  const auto golden = read_json_file(NANO_VLLM_SOURCE_DIR "/tests/data/quantization_golden.json");
  int types = 0;
  for (int t = 0; t <= static_cast<int>(DType::kQ6_K); ++t, ++types) {
    const DType type = static_cast<DType>(t);
    const auto& entry = golden.at(dtype_name(type));
    // One byte further on: rows need no alignment.
    const std::string row = "x" + from_hex(entry.at("row")),
                      expected = from_hex(entry.at("float32"));
    ASSERT_EQ(static_cast<int64_t>(row.size() - 1), dtype_row_bytes(type, 256)) << dtype_name(type);
    ASSERT_EQ(expected.size(), 256 * sizeof(float));
    std::vector<float> values(256);
    dequantize_row(type, reinterpret_cast<const std::byte*>(row.data() + 1), values.data(), 256);
    EXPECT_EQ(std::memcmp(values.data(), expected.data(), expected.size()), 0) << dtype_name(type);
  }
  EXPECT_EQ(types, static_cast<int>(golden.size()));
}

TEST(Quantization, HalfToFloat) {
  EXPECT_EQ(half_to_float(0x3c00), 1.0f);
  EXPECT_EQ(half_to_float(0xc000), -2.0f);
  EXPECT_EQ(half_to_float(0x7bff), 65504.0f);
  EXPECT_EQ(half_to_float(0x0001), std::ldexp(1.0f, -24));
  EXPECT_EQ(half_to_float(0x8001), -std::ldexp(1.0f, -24));
  EXPECT_EQ(half_to_float(0x0400), std::ldexp(1.0f, -14));
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  EXPECT_EQ(half_to_float(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(half_to_float(0x7e00)));
  // Against arithmetic: a normal number is (1 + mantissa / 1024) * 2^(exponent - 15).
  for (int bits = 0x0400; bits < 0x7c00; ++bits) {
    const float value =
        std::ldexp(1.0f + static_cast<float>(bits & 1023) / 1024, (bits >> 10) - 15);
    ASSERT_EQ(half_to_float(static_cast<uint16_t>(bits)), value);
  }
}

TEST(Quantization, BFloat16RoundsToNearestEven) {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    const float exact = bfloat16_to_float(static_cast<uint16_t>(high));
    if (std::isnan(exact)) {
      EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(exact))));
      continue;
    }
    ASSERT_EQ(float_to_bfloat16(exact), high);
    if (std::isinf(exact)) continue;
    const auto with_low = [&](uint32_t low) {
      return float_to_bfloat16(std::bit_cast<float>(high << 16 | low));
    };
    ASSERT_EQ(with_low(0x7fff), high);
    ASSERT_EQ(with_low(0x8000), high + (high & 1));  // halfway: to the even one
    ASSERT_EQ(with_low(0x8001), high + 1);
  }
  // A NaN whose payload lies in the low bits stays one.
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace nanovllm
