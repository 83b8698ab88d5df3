#include "backend/cuda/pack_quantized.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/quantization.h"
#include "formats/quantize.h"

namespace nanovllm::cuda {
namespace {

WeightFormat format_of(DType dtype, WeightType type) {
  if (type == WeightType::kFloat32) return WeightFormat::kPlain;
  switch (dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return type == WeightType::kInt8     ? WeightFormat::kInt8
             : type == WeightType::kInt4   ? WeightFormat::kInt4
             : type == WeightType::kFloat8 ? WeightFormat::kFloat8
                                           : WeightFormat::kPlain;
    case DType::kQ4_0:
    case DType::kQ4_1:
      return WeightFormat::kInt4;
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
      return WeightFormat::kInt8;
    default:
      return WeightFormat::kPlain;
  }
}

// The quant that stands for zero, of the types that store no min.
int centre(DType dtype) {
  return dtype == DType::kQ8_0 ? 128 : dtype == DType::kQ5_0 ? 16 : dtype == DType::kQ4_0 ? 8 : 0;
}

struct Row {
  const std::byte* data = nullptr;  // null past the last row
  DType dtype = DType::kF32;
};

// Columns first .. first + 31 of an unquantized row; zeros past its end.
void read_floats(const Row& row, int64_t first, int64_t columns, float* out) {
  const int64_t count = std::min<int64_t>(kTileColumns, columns - first);
  dequantize_row(row.dtype, row.data + dtype_row_bytes(row.dtype, first), out, count);
  std::fill(out + count, out + kTileColumns, 0.0f);
}

// 32 quants of row r of a tile.
void put_quants(WeightFormat format, const uint8_t* q, int r, std::byte* tile) {
  for (int four = 0; four < 4; ++four) {  // lanes
    const int place = (r % 8 * 4 + four) * 2 + r / 8;
    const uint8_t* from = q + four * 8;
    if (format != WeightFormat::kInt4) {
      std::memcpy(tile + place * 8, from, 8);
    } else {
      for (int j = 0; j < 4; ++j)
        tile[place * 4 + j] = static_cast<std::byte>(from[j] | from[j + 4] << 4);
    }
  }
}

void pack_groups(const Row& row, WeightFormat format, int64_t columns, int r, std::byte* tile) {
  for (int64_t first = 0; first < columns; first += kTileColumns, tile += tile_bytes(format)) {
    QuantBlock block;
    int zero = centre(row.dtype);
    if (dtype_block_elements(row.dtype) > 1) {
      block = unpack_block(row.dtype, row.data, first);
    } else {
      float values[kTileColumns];
      read_floats(row, first, columns, values);
      block = format == WeightFormat::kInt8 ? quantize_int8(values) : quantize_int4(values);
      if (format == WeightFormat::kInt4) zero = 8;
    }
    if (zero > 0)  // a power of two: exact
      block.min = float_to_half(-static_cast<float>(zero) * half_to_float(block.scale));
    put_quants(format, block.q, r, tile);
    const uint16_t scales[2] = {block.scale, block.min};
    std::memcpy(tile + quant_bytes(format) + (r % 8 * 2 + r / 8) * 4, scales, 4);
  }
}

void pack_float8(const Row& row, int64_t columns, int r, std::byte* tile_row) {
  float largest = 0, broken = 0, values[kTileColumns];
  for (int64_t first = 0; first < columns; first += kTileColumns) {
    read_floats(row, first, columns, values);
    for (const float v : values) {
      largest = std::max(largest, std::fabs(v));
      broken += v * 0;
    }
  }
  const float scale = broken == 0 && largest > 1e-30f ? largest / kFloat8Largest : 0;
  std::memcpy(tile_row + r * sizeof scale, &scale, sizeof scale);
  if (scale == 0) return;
  std::byte* tile = tile_row + header_bytes(WeightFormat::kFloat8);
  for (int64_t first = 0; first < columns; first += kTileColumns) {
    read_floats(row, first, columns, values);
    uint8_t q[kTileColumns];
    for (int i = 0; i < kTileColumns; ++i) q[i] = float_to_float8(values[i] / scale);
    put_quants(WeightFormat::kFloat8, q, r, tile);
    tile += tile_bytes(WeightFormat::kFloat8);
  }
}

}  // namespace

WeightFormat weight_format(std::span<const TensorView> parts, WeightType type) {
  WeightFormat all = format_of(parts.front().dtype, type);
  const auto in_groups = [](WeightFormat f) {
    return f == WeightFormat::kInt4 || f == WeightFormat::kInt8;
  };
  for (const TensorView& part : parts) {
    const WeightFormat f = format_of(part.dtype, type);
    // Four bits fit into eight; what else differs is bfloat16.
    if (f != all) all = in_groups(f) && in_groups(all) ? WeightFormat::kInt8 : WeightFormat::kPlain;
  }
  return all;
}

void pack_tile_row(std::span<const TensorView> parts, WeightFormat format, int64_t first_row,
                   std::byte* to) {
  const int64_t columns = parts.front().shape[1];
  std::memset(to, 0, static_cast<size_t>(tile_row_bytes(format, columns)));
  const auto row_at = [&](int64_t n) {
    for (const TensorView& part : parts) {
      if (n < part.shape[0]) return Row{part.data.data() + n * part.stride(), part.dtype};
      n -= part.shape[0];
    }
    return Row{};
  };
  for (int r = 0; r < kTileRows; ++r) {
    const Row row = row_at(first_row + r);
    if (!row.data) return;
    if (format == WeightFormat::kFloat8)
      pack_float8(row, columns, r, to);
    else
      pack_groups(row, format, columns, r, to);
  }
}

}  // namespace nanovllm::cuda
