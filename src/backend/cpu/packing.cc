#include "backend/cpu/packing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "backend/cpu/unpack_block.h"
#include "formats/quantization.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

PanelKind kind_of(DType dtype, WeightType type) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      if (type == WeightType::kFloat32) return PanelKind::kF32;
      if (type == WeightType::kInt8) return PanelKind::kQ8Float;
      if (type == WeightType::kInt4) return PanelKind::kQ4FloatMin;
      return type == WeightType::kAsStored && dtype == DType::kF16 ? PanelKind::kF16
                                                                   : PanelKind::kBF16;
    case DType::kQ4_0:
      return PanelKind::kQ4Half;
    case DType::kQ4_1:
      return PanelKind::kQ4HalfMin;
    case DType::kQ4_K:
      return PanelKind::kQ4FloatMin;
    case DType::kQ5_0:
    case DType::kQ8_0:
      return PanelKind::kQ8Half;
    case DType::kQ5_1:
      return PanelKind::kQ8HalfMin;
    case DType::kQ5_K:
      return PanelKind::kQ8FloatMin;
    case DType::kQ6_K:
      return PanelKind::kQ8Float16;
  }
  return PanelKind::kF32;
}

// One row of the stacked matrix.
struct Row {
  const std::byte* data = nullptr;  // null past the last row
  DType dtype = DType::kF32;
};

// A row's elements k .. k + count as float, of an unquantized type.
void read_floats(const Row& row, int64_t k, int64_t count, float* out) {
  if (row.dtype == DType::kF32) {
    std::memcpy(out, row.data + k * 4, static_cast<size_t>(count) * 4);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, row.data + (k + i) * 2, 2);
    out[i] = row.dtype == DType::kF16 ? half_to_float(bits)
                                      : std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
}

uint16_t bfloat16_bits(float value) {  // float_to_bfloat16, inlined
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Elements of a panel's column lie 16 apart: out[k * 16] for k in begin .. end of one row.
void pack_float_column(PanelKind kind, const Row& row, int column, int64_t in_features,
                       uint8_t* panel) {
  constexpr int64_t kStep = 64;
  float buffer[kStep];
  for (int64_t k = 0; k < in_features; k += kStep) {
    const int64_t count = std::min(kStep, in_features - k);
    if (kind == PanelKind::kF16) {
      uint16_t* out = reinterpret_cast<uint16_t*>(panel) + k * 16 + column;
      for (int64_t i = 0; i < count; ++i) std::memcpy(out + i * 16, row.data + (k + i) * 2, 2);
      continue;
    }
    if (kind == PanelKind::kF32) {
      read_floats(row, k, count, buffer);
      float* out = reinterpret_cast<float*>(panel) + k * 16 + column;
      for (int64_t i = 0; i < count; ++i) out[i * 16] = buffer[i];
      continue;
    }
    // Step k is the low (even) or high (odd) half of word k / 2 of the column.
    uint16_t* out = reinterpret_cast<uint16_t*>(panel) + k / 2 * 32 + column * 2;
    if (row.dtype == DType::kBF16) {
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(out + i / 2 * 32 + i % 2, row.data + (k + i) * 2, 2);
    } else {
      read_floats(row, k, count, buffer);
      for (int64_t i = 0; i < count; ++i) out[i / 2 * 32 + i % 2] = bfloat16_bits(buffer[i]);
    }
  }
}

// Eight bytes below 16 into eight 4-bit fields, the first in the lowest bits.
uint32_t pack_nibbles(const uint8_t* q) {
  uint64_t v;
  std::memcpy(&v, q, 8);
  v = (v | v >> 4) & 0x00ff00ff00ff00ff;
  v = (v | v >> 8) & 0x0000ffff0000ffff;
  return static_cast<uint32_t>(v | v >> 16);
}

// Weight-only quantization of unquantized rows. int8: symmetric, the largest magnitude at 127.
// int4: the smallest and the largest value at 0 and 15. A row's last block may be short; its
// padding is never read.
QuantBlock quantize_block(PanelKind kind, const Row& row, int64_t k, int64_t in_features) {
  QuantBlock block;
  float w[32] = {};
  const int64_t count = std::min<int64_t>(32, in_features - k);
  read_floats(row, k, count, w);
  float low = w[0], high = w[0], centre = 0;
  for (int64_t i = 1; i < count; ++i) low = std::min(low, w[i]), high = std::max(high, w[i]);
  if (kind == PanelKind::kQ8Float) {
    block.scale = std::max(std::fabs(low), std::fabs(high)) / 127;
    centre = 128;
    low = 0;
  } else {
    block.scale = (high - low) / 15;
    block.min = low;
  }
  const float inverse = block.scale > 0 ? 1 / block.scale : 0;
  const float largest = kind == PanelKind::kQ8Float ? 255 : 15;
  for (int64_t i = 0; i < 32; ++i) {
    const float q = i < count ? std::nearbyint((w[i] - low) * inverse) + centre : centre;
    block.q[i] = static_cast<uint8_t>(q >= 0 && q <= largest ? q : 0);
  }
  return block;
}

void pack_quantized_column(PanelKind kind, const Row& row, int column, int64_t in_features,
                           uint8_t* panel) {
  const PanelFormat f = panel_format(kind);
  const bool convert = dtype_block_elements(row.dtype) == 1;
  for (int64_t k = 0; k < in_features; k += f.block, panel += panel_record_bytes(f)) {
    const QuantBlock block =
        convert ? quantize_block(kind, row, k, in_features) : unpack_block(row.dtype, row.data, k);
    if (f.half_scales) {
      uint16_t* scales = reinterpret_cast<uint16_t*>(panel);
      scales[column] = block.half_scale;
      if (f.has_min) scales[16 + column] = block.half_min;
    } else {
      float* scales = reinterpret_cast<float*>(panel);
      scales[column] = block.scale;
      if (f.has_min) scales[16 + column] = block.min;
    }
    uint32_t* quants = reinterpret_cast<uint32_t*>(panel + panel_scale_bytes(f)) + column;
    if (f.bits == 4) {
      for (int g = 0; g < f.block / 8; ++g) quants[g * 16] = pack_nibbles(block.q + g * 8);
    } else {
      for (int g = 0; g < f.block / 4; ++g) std::memcpy(quants + g * 16, block.q + g * 4, 4);
    }
  }
}

}  // namespace

CpuWeight plan_weight(std::span<const TensorView> parts, WeightType type) {
  if (parts.empty()) throw Error("weight", "no tensors to pack");
  CpuWeight weight;
  int64_t rows = 0, bytes = 0;
  for (const TensorView& part : parts) {
    const std::string where = "tensor '" + part.name + "'";
    if (part.shape.size() != 2) throw Error(where, "is not a matrix");
    const int64_t n = part.shape[0], k = part.shape[1], block = dtype_block_elements(part.dtype);
    constexpr int64_t kMost = int64_t{1} << 31;
    if (n <= 0 || k <= 0 || n >= kMost || k >= kMost)
      throw Error(where, "has a dimension out of range");
    if (weight.in_features == 0) weight.in_features = k;
    if (k != weight.in_features)
      throw Error(where, "has " + std::to_string(k) + " input features where " +
                             std::to_string(weight.in_features) + " are expected");
    if (k % block != 0)
      throw Error(where, "has rows that are not whole blocks of " + std::to_string(block));
    if (static_cast<int64_t>(part.data.size()) != n * dtype_row_bytes(part.dtype, k))
      throw Error(where,
                  "holds " + std::to_string(part.data.size()) + " bytes, not what its shape says");
    const PanelKind kind = kind_of(part.dtype, type);
    if (weight.segments.empty() || weight.segments.back().kind != kind) {
      Segment s;
      s.kind = kind;
      s.first_column = rows;
      if (!weight.segments.empty()) s.first_panel = weight.num_panels();
      weight.segments.push_back(s);
    }
    weight.segments.back().columns += n;
    rows += n;
  }
  for (Segment& s : weight.segments) {
    s.offset = bytes;
    bytes += (s.panels() * panel_bytes(s.kind, weight.in_features) + 63) / 64 * 64;
  }
  weight.out_features = rows;
  weight.bytes = bytes;
  return weight;
}

std::unique_ptr<CpuWeight> pack_weight(std::span<const TensorView> parts, WeightType type,
                                       ThreadPool& pool) {
  auto weight = std::make_unique<CpuWeight>(plan_weight(parts, type));
  weight->memory = Memory(weight->bytes, "weight '" + parts[0].name + "'", true);
  const int64_t in_features = weight->in_features;
  const auto row_at = [&](int64_t n) {
    for (const TensorView& part : parts) {
      if (n < part.shape[0])
        return Row{part.data.data() + n * dtype_row_bytes(part.dtype, in_features), part.dtype};
      n -= part.shape[0];
    }
    return Row{};
  };
  for (const Segment& s : weight->segments) {
    uint8_t* const start = reinterpret_cast<uint8_t*>(weight->memory.data()) + s.offset;
    const int64_t bytes = panel_bytes(s.kind, in_features);
    pool.parallel_for(s.panels(), [&](int64_t p, int) {
      for (int column = 0; column < kPanelColumns && p * kPanelColumns + column < s.columns;
           ++column) {
        const Row row = row_at(s.first_column + p * kPanelColumns + column);
        if (panel_format(s.kind).bits == 0) {
          pack_float_column(s.kind, row, column, in_features, start + p * bytes);
        } else {
          pack_quantized_column(s.kind, row, column, in_features, start + p * bytes);
        }
      }
    });
  }
  return weight;
}

}  // namespace nanovllm
