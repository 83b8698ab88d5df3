#include "backend/cpu/packing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "formats/quantization.h"
#include "formats/quantize.h"
#include "formats/unpack_block.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

static_assert(kQ8MinLargest == kInt8Largest);

PanelKind kind_of(DType dtype, WeightType type) {
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      if (type == WeightType::kFloat32) return PanelKind::kF32;
      if (type == WeightType::kInt8) return PanelKind::kQ8Min;
      if (type == WeightType::kInt4) return PanelKind::kQ4;
      return type == WeightType::kAsStored && dtype == DType::kF16 ? PanelKind::kF16
                                                                   : PanelKind::kBF16;
    case DType::kQ4_0:
      return PanelKind::kQ4;
    case DType::kQ4_1:
      return PanelKind::kQ4Min;
    case DType::kQ4_K:
      return PanelKind::kQ4Super;
    case DType::kQ5_0:
      return PanelKind::kQ6;
    case DType::kQ5_1:
      return PanelKind::kQ6Min;
    case DType::kQ5_K:
      return PanelKind::kQ6Super;
    case DType::kQ6_K:
      return PanelKind::kQ6Super16;
    case DType::kQ8_0:
      return PanelKind::kQ8;
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

// A panel of unquantized rows: its 16 columns (null past the last row) side by side.
void pack_float_panel(PanelKind kind, const Row* rows, int64_t in_features, uint8_t* panel) {
  constexpr int64_t kStep = 64;  // of K, so that what is read and written stays in the cache
  for (int64_t k0 = 0; k0 < in_features; k0 += kStep) {
    const int64_t count = std::min(kStep, in_features - k0);
    for (int column = 0; column < kPanelColumns && rows[column].data; ++column) {
      const Row& row = rows[column];
      if (kind == PanelKind::kBF16 && row.dtype == DType::kBF16) {
        // Steps k and k + 1 are the halves of a word, as they are in the file.
        uint32_t* out = reinterpret_cast<uint32_t*>(panel) + k0 / 2 * 16 + column;
        const std::byte* in = row.data + k0 * 2;
        for (int64_t i = 0; i < count / 2; ++i) std::memcpy(out + i * 16, in + i * 4, 4);
        if (count % 2) std::memcpy(out + count / 2 * 16, in + (count - 1) * 2, 2);
        continue;
      }
      float values[kStep];
      read_floats(row, k0, count, values);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t k = k0 + i;
        if (kind == PanelKind::kF32) {
          reinterpret_cast<float*>(panel)[k * 16 + column] = values[i];
        } else if (kind == PanelKind::kF16) {
          std::memcpy(reinterpret_cast<uint16_t*>(panel) + k * 16 + column, row.data + k * 2, 2);
        } else {
          reinterpret_cast<uint16_t*>(panel)[k / 2 * 32 + column * 2 + k % 2] =
              bfloat16_bits(values[i]);
        }
      }
    }
  }
}

void pack_quantized_panel(PanelKind kind, const Row* rows, int64_t in_features, uint8_t* panel) {
  const PanelFormat f = panel_format(kind);
  const int64_t groups = record_steps(f) / kQuantGroup;  // of 32 steps, in a record
  const int64_t factors = kSuperBlock / f.group * 16;
  for (int64_t k = 0; k < in_features; k += kQuantGroup) {
    const int64_t group = k / kQuantGroup % groups;
    uint8_t* record = panel + k / record_steps(f) * record_bytes(f);
    uint8_t* quants = record + record_scale_bytes(f) + group * group_quant_bytes(f);
    uint16_t* scales = reinterpret_cast<uint16_t*>(record);
    for (int column = 0; column < kPanelColumns && rows[column].data; ++column) {
      const Row& row = rows[column];
      QuantBlock block;
      if (dtype_block_elements(row.dtype) > 1) {
        block = unpack_block(row.dtype, row.data, k);
      } else {
        float values[kQuantGroup] = {};
        read_floats(row, k, std::min<int64_t>(kQuantGroup, in_features - k), values);
        block = kind == PanelKind::kQ8Min ? quantize_int8(values) : quantize_int4(values);
      }
      scales[column] = block.scale;
      if (f.has_min()) scales[16 + column] = block.min;
      if (f.super) {
        uint8_t* to = record + (f.has_min() ? 64 : 32) + column;
        const int in_group = kQuantGroup / f.group;
        for (int i = 0; i < in_group; ++i) {
          to[(group * in_group + i) * 16] = block.factor[i];
          if (f.has_min()) to[factors + (group * in_group + i) * 16] = block.min_factor[i];
        }
      }
      for (int four = 0; four < kQuantGroup / 4; ++four) {
        uint32_t q;
        std::memcpy(&q, block.q + four * 4, 4);
        const auto at = [&](int64_t word) {
          return reinterpret_cast<uint32_t*>(quants) + word * 16 + column;
        };
        if (f.bits == 8) {
          *at(four) = q;
        } else {
          *at(four / 2) |= (q & 0x0f0f0f0f) << (four % 2 * 4);
          if (f.bits == 6) *at(4 + four / 4) |= (q >> 4 & 0x03030303) << (four % 4 * 2);
        }
      }
    }
  }
}

}  // namespace

CpuWeight plan_weight(std::span<const TensorView> parts, WeightType type) {
  if (parts.empty()) throw Error("weight", "no tensors to pack");
  if (type == WeightType::kFloat8)
    throw InvalidArgument("--quantization", "is fp8; on the CPU, none, int8 and int4 are allowed");
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
    if (static_cast<int64_t>(part.data.size()) != part.data_bytes())
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
  weight.type = type;
  return weight;
}

std::unique_ptr<CpuWeight> pack_weight(std::span<const TensorView> parts, WeightType type,
                                       ThreadPool& pool) {
  auto weight = std::make_unique<CpuWeight>(plan_weight(parts, type));
  weight->memory = Memory(weight->bytes, "weight '" + parts[0].name + "'", true);
  const int64_t in_features = weight->in_features;
  const auto row_at = [&](int64_t n) {
    for (const TensorView& part : parts) {
      if (n < part.shape[0]) return Row{part.data.data() + n * part.stride(), part.dtype};
      n -= part.shape[0];
    }
    return Row{};
  };
  for (const Segment& s : weight->segments) {
    uint8_t* const start = reinterpret_cast<uint8_t*>(weight->memory.data()) + s.offset;
    const int64_t bytes = panel_bytes(s.kind, in_features);
    pool.parallel_for(s.panels(), [&](int64_t p, int) {
      Row rows[kPanelColumns];
      for (int64_t i = 0; i < std::min<int64_t>(kPanelColumns, s.columns - p * kPanelColumns); ++i)
        rows[i] = row_at(s.first_column + p * kPanelColumns + i);
      const auto pack = panel_format(s.kind).bits ? pack_quantized_panel : pack_float_panel;
      pack(s.kind, rows, in_features, start + p * bytes);
    });
  }
  return weight;
}

}  // namespace nanovllm
