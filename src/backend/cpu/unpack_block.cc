#include "backend/cpu/unpack_block.h"

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

void add(int value, uint8_t* q) {
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(q[i] + value);
}

// Group j of 32 elements of a Q4_K or Q5_K super-block.
void k_group(const uint8_t* block, bool five_bits, int j, QuantBlock& out) {
  const uint8_t* s = block + 4;
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6 << 4);
  const int min = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6 << 4);
  out.scale = half_to_float(load_u16(block)) * static_cast<float>(scale);
  out.min = -(half_to_float(load_u16(block + 2)) * static_cast<float>(min));
  const uint8_t* bytes = block + (five_bits ? 48 : 16) + j / 2 * 32;
  const int shift = j % 2 * 4;
  for (int i = 0; i < 32; ++i) out.q[i] = bytes[i] >> shift & 15;
  if (!five_bits) return;
  for (int i = 0; i < 32; ++i)
    out.q[i] = static_cast<uint8_t>(out.q[i] | (block[16 + i] >> j & 1) << 4);
}

// Group j of 16 elements of a Q6_K super-block; 128 is the panel's centre, 32 the format's.
void q6_group(const uint8_t* block, int j, QuantBlock& out) {
  const int half = j / 8, quarter = j % 8 / 2, first = j % 2 * 16;
  const uint8_t* low = block + 64 * half + 32 * (quarter % 2) + first;
  const uint8_t* high = block + 128 + 32 * half + first;
  const int shift = quarter / 2 * 4;
  out.scale = half_to_float(load_u16(block + 208)) *
              static_cast<float>(static_cast<int8_t>(block[192 + j]));
  for (int i = 0; i < 16; ++i)
    out.q[i] = static_cast<uint8_t>(((low[i] >> shift & 15) | (high[i] >> (2 * quarter) & 3) << 4) +
                                    128 - 32);
}

}  // namespace

QuantBlock unpack_block(DType dtype, const std::byte* row, int64_t k) {
  const int64_t elements = dtype_block_elements(dtype);
  const uint8_t* block =
      reinterpret_cast<const uint8_t*>(row) + k / elements * dtype_block_bytes(dtype);
  const int group = static_cast<int>(k % elements / (dtype == DType::kQ6_K ? 16 : 32));
  QuantBlock out;
  out.half_scale = load_u16(block);
  out.half_min = load_u16(block + 2);
  switch (dtype) {
    case DType::kQ8_0:
      std::memcpy(out.q, block + 2, 32);
      add(128, out.q);  // of int8, modulo 256
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
      add(128 - 16, out.q);
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
      q6_group(block, group, out);
      break;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;  // not blocks
  }
  return out;
}

}  // namespace nanovllm
