#include "formats/unpack_block.h"

#include <cstring>

#include "formats/quantization.h"

namespace nanovllm {
namespace {

uint16_t load_u16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
uint32_t load_u32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// 16 bytes of nibbles: the low ones are elements 0 .. 15, the high ones 16 .. 31.
void nibbles(const uint8_t* bytes, uint8_t* q) {
  for (int i = 0; i < 16; ++i) {
    q[i] = bytes[i] & 15;
    q[i + 16] = bytes[i] >> 4;
  }
}

void fifth_bits(uint32_t bits, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(q[i] | (bits >> i & 1) << 4);
}

// Group j of 32 elements of a Q4_K or Q5_K super-block.
void k_group(const uint8_t* block, bool five_bits, int j, QuantBlock& out) {
  const uint8_t* s = block + 4;
  out.factor[0] = static_cast<uint8_t>(j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6 << 4));
  out.min_factor[0] =
      static_cast<uint8_t>(j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6 << 4));
  const uint8_t* bytes = block + (five_bits ? 48 : 16) + j / 2 * 32;
  const int shift = j % 2 * 4;
  for (int i = 0; i < 32; ++i) out.q[i] = bytes[i] >> shift & 15;
  if (!five_bits) return;
  for (int i = 0; i < 32; ++i)
    out.q[i] = static_cast<uint8_t>(out.q[i] | (block[16 + i] >> j & 1) << 4);
}

// Elements 32 * j onwards of a Q6_K super-block: two groups of 16, whose signed scales are kept
// with 128 added.
void q6_groups(const uint8_t* block, int j, QuantBlock& out) {
  const int half = j / 4, quarter = j % 4;
  const uint8_t* low = block + 64 * half + 32 * (quarter % 2);
  const uint8_t* high = block + 128 + 32 * half;
  const int shift = quarter / 2 * 4;
  out.scale = load_u16(block + 208);
  for (int i = 0; i < 2; ++i) out.factor[i] = static_cast<uint8_t>(block[192 + 2 * j + i] + 128);
  for (int i = 0; i < 32; ++i)
    out.q[i] = static_cast<uint8_t>((low[i] >> shift & 15) | (high[i] >> (2 * quarter) & 3) << 4);
}

}  // namespace

QuantBlock unpack_block(DType dtype, const std::byte* row, int64_t k) {
  const int64_t elements = dtype_block_elements(dtype);
  const uint8_t* block =
      reinterpret_cast<const uint8_t*>(row) + k / elements * dtype_block_bytes(dtype);
  const int group = static_cast<int>(k % elements / 32);
  QuantBlock out;
  out.scale = load_u16(block);
  out.min = load_u16(block + 2);
  switch (dtype) {
    case DType::kQ8_0:
      for (int i = 0; i < 32; ++i) out.q[i] = static_cast<uint8_t>(block[2 + i] + 128);  // of int8
      break;
    case DType::kQ4_0:
      nibbles(block + 2, out.q);
      break;
    case DType::kQ4_1:
      nibbles(block + 4, out.q);
      break;
    case DType::kQ5_0:
      nibbles(block + 6, out.q);
      fifth_bits(load_u32(block + 2), out.q);
      break;
    case DType::kQ5_1:
      nibbles(block + 8, out.q);
      fifth_bits(load_u32(block + 4), out.q);
      break;
    case DType::kQ4_K:
      k_group(block, false, group, out);
      break;
    case DType::kQ5_K:
      k_group(block, true, group, out);
      break;
    case DType::kQ6_K:
      q6_groups(block, group, out);
      break;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;  // not blocks
  }
  return out;
}

}  // namespace nanovllm
