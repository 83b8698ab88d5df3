#include "formats/quantization.h"

#include <bit>
#include <cstring>

namespace nanovllm {
namespace {

// Blocks are read byte by byte: a row may start at any address.
uint16_t load_u16(const std::byte* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
uint32_t load_u32(const std::byte* p) {
  uint32_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
float load_half(const std::byte* p) { return half_to_float(load_u16(p)); }
int u8(std::byte b) { return std::to_integer<int>(b); }
int s8(std::byte b) { return static_cast<int8_t>(u8(b)); }

// [f16 d][32 int8 q]: x = d * q
void q8_0(const std::byte* block, float* x) {
  const float d = load_half(block);
  for (int i = 0; i < 32; ++i) x[i] = d * static_cast<float>(s8(block[2 + i]));
}

// [f16 d][16 bytes]: the low nibbles are elements 0..15, the high ones 16..31. x = d * (q - 8)
void q4_0(const std::byte* block, float* x) {
  const float d = load_half(block);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(block[2 + i]);
    x[i] = d * static_cast<float>((q & 15) - 8);
    x[i + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

// [f16 d][f16 m][16 bytes]: x = d * q + m
void q4_1(const std::byte* block, float* x) {
  const float d = load_half(block), m = load_half(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(block[4 + i]);
    x[i] = d * static_cast<float>(q & 15) + m;
    x[i + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

// The fifth bit of element i is bit i of a 32-bit word before the nibbles.
int fifth_bit(uint32_t bits, int i) { return static_cast<int>((bits >> i) & 1) << 4; }

// [f16 d][u32 fifth bits][16 bytes]: x = d * (q - 16)
void q5_0(const std::byte* block, float* x) {
  const float d = load_half(block);
  const uint32_t high = load_u32(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(block[6 + i]);
    x[i] = d * static_cast<float>(((q & 15) | fifth_bit(high, i)) - 16);
    x[i + 16] = d * static_cast<float>(((q >> 4) | fifth_bit(high, i + 16)) - 16);
  }
}

// [f16 d][f16 m][u32 fifth bits][16 bytes]: x = d * q + m
void q5_1(const std::byte* block, float* x) {
  const float d = load_half(block), m = load_half(block + 2);
  const uint32_t high = load_u32(block + 4);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(block[8 + i]);
    x[i] = d * static_cast<float>((q & 15) | fifth_bit(high, i)) + m;
    x[i + 16] = d * static_cast<float>((q >> 4) | fifth_bit(high, i + 16)) + m;
  }
}

// Q4_K and Q5_K: eight groups of 32 elements, each with a six-bit scale and a six-bit minimum in 12
// bytes. Groups 0..3 have theirs in the low six bits of bytes j and j + 4; groups 4..7 in the
// nibbles of byte j + 4, with the upper two bits taken from the top of bytes j - 4 (scale) and j
// (minimum).
struct ScaleMin {
  int scale, min;
};
ScaleMin scale_min(const std::byte* s, int j) {
  if (j < 4) return {u8(s[j]) & 63, u8(s[j + 4]) & 63};
  return {(u8(s[j + 4]) & 15) | (u8(s[j - 4]) >> 6 << 4),
          (u8(s[j + 4]) >> 4) | (u8(s[j]) >> 6 << 4)};
}

// [f16 d][f16 dmin][12 bytes of scales][Q5_K: 32 bytes of fifth bits][128 bytes of nibbles]
// Each 32 bytes of nibbles hold two groups: low nibbles, then high ones. Bit j of fifth-bit byte l
// belongs to element l of group j. x = (d * scale) * q - (dmin * min)
void q4_k_or_q5_k(const std::byte* block, bool five_bits, float* x) {
  const float d = load_half(block), dmin = load_half(block + 2);
  const std::byte* scales = block + 4;
  const std::byte* high = block + 16;
  const std::byte* nibbles = five_bits ? block + 48 : block + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleMin sm = scale_min(scales, j);
    const float scale = d * static_cast<float>(sm.scale);
    const float minimum = dmin * static_cast<float>(sm.min);
    for (int l = 0; l < 32; ++l) {
      int q = (u8(nibbles[j / 2 * 32 + l]) >> (j % 2 * 4)) & 15;
      if (five_bits) q |= ((u8(high[l]) >> j) & 1) << 4;
      x[j * 32 + l] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// [128 bytes of nibbles][64 bytes of upper bit pairs][16 int8 scales][f16 d]
// Two halves of 128 elements. In each, quarter k (32 elements) takes its nibbles from byte l + 32 *
// (k % 2), low ones for k < 2, and its upper pair from bits 2k of byte l. A scale covers 16
// elements. x = (d * scale) * (q - 32)
void q6_k(const std::byte* block, float* x) {
  const float d = load_half(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* low = block + 64 * half;
    const std::byte* high = block + 128 + 32 * half;
    const std::byte* scales = block + 192 + 8 * half;
    for (int k = 0; k < 4; ++k) {
      for (int l = 0; l < 32; ++l) {
        const int nibble = (u8(low[l + 32 * (k % 2)]) >> (k / 2 * 4)) & 15;
        const int pair = (u8(high[l]) >> (2 * k)) & 3;
        const float scale = d * static_cast<float>(s8(scales[2 * k + l / 16]));
        x[128 * half + 32 * k + l] = scale * static_cast<float>((nibble | pair << 4) - 32);
      }
    }
  }
}

}  // namespace

float half_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  uint32_t exponent = (bits >> 10) & 31;
  uint32_t mantissa = bits & 0x3ff;
  if (exponent == 31)
    return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);  // infinity, NaN
  if (exponent == 0) {
    if (mantissa == 0) return std::bit_cast<float>(sign);
    // Subnormal: mantissa * 2^-24, exact in float32.
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
}

float bfloat16_to_float(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t float_to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
  if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24, which the sum rounds to
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return static_cast<uint16_t>(sign | (rounded - 0x38000000) >> 13);
}

uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  // Rounding a NaN could carry into infinity; keep its top bits and make it quiet.
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

void dequantize_row(DType type, const std::byte* src, float* dst, int64_t elements) {
  const int64_t step = dtype_block_elements(type), bytes = dtype_block_bytes(type);
  if (type == DType::kF32) {
    if (elements > 0) std::memcpy(dst, src, static_cast<size_t>(elements) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < elements; i += step, src += bytes, dst += step) {
    switch (type) {
      case DType::kF32:
        break;
      case DType::kF16:
        *dst = half_to_float(load_u16(src));
        break;
      case DType::kBF16:
        *dst = bfloat16_to_float(load_u16(src));
        break;
      case DType::kQ8_0:
        q8_0(src, dst);
        break;
      case DType::kQ4_0:
        q4_0(src, dst);
        break;
      case DType::kQ4_1:
        q4_1(src, dst);
        break;
      case DType::kQ5_0:
        q5_0(src, dst);
        break;
      case DType::kQ5_1:
        q5_1(src, dst);
        break;
      case DType::kQ4_K:
        q4_k_or_q5_k(src, false, dst);
        break;
      case DType::kQ5_K:
        q4_k_or_q5_k(src, true, dst);
        break;
      case DType::kQ6_K:
        q6_k(src, dst);
        break;
    }
  }
}

}  // namespace nanovllm
