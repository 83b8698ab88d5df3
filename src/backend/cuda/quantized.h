// Quantized weights as they lie on the device. Tiles of 16 rows (output features) by 32 columns
// (input features) follow each other along the rows; what lies past the matrix's end is zero.
//
//   kInt8    w = q * scale + min.  512 bytes of quants, then of each row scale and min (halves)
//   kInt4    the same with 256 bytes of quants
//   kFloat8  w = q * scale, q in E4M3. Before a row of tiles the 16 scales (float), then tiles of
//            512 bytes
//
// The quants of a tile lie as the 32 lanes of a warp take them for mma.m16n8k16: lane i has columns
// i % 4 * 8 to + 7 of row i / 4, then of row i / 4 + 8, at once. In which order a product's columns
// are summed is free as long as both factors have the same one; so the eight columns are two of the
// pairs that the instruction wants of a lane in one step of 16, and two in the next. Four bits:
// byte j of the four holds column j low and column j + 4 high. The scales: of rows 0, 8, 1, 9, ....
#pragma once

#include <cstddef>
#include <cstdint>

namespace nanovllm::cuda {

// kPlain: not quantized.
enum class WeightFormat { kPlain, kInt4, kInt8, kFloat8 };

constexpr int kTileRows = 16, kTileColumns = 32;

constexpr int64_t tiles_along(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }
constexpr int64_t quant_bytes(WeightFormat f) { return f == WeightFormat::kInt4 ? 256 : 512; }
constexpr bool has_group_scales(WeightFormat f) { return f != WeightFormat::kFloat8; }
// Of a tile, of what lies before a row of tiles, and of all that.
constexpr int64_t tile_bytes(WeightFormat f) {
  return quant_bytes(f) + (has_group_scales(f) ? kTileRows * 4 : 0);
}
constexpr int64_t header_bytes(WeightFormat f) {
  return has_group_scales(f) ? 0 : kTileRows * int64_t{sizeof(float)};
}
constexpr int64_t tile_row_bytes(WeightFormat f, int64_t in_features) {
  return header_bytes(f) + tiles_along(in_features, kTileColumns) * tile_bytes(f);
}
constexpr int64_t matrix_bytes(WeightFormat f, int64_t out_features, int64_t in_features) {
  return tiles_along(out_features, kTileRows) * tile_row_bytes(f, in_features);
}

// A matrix [out_features, in_features] in device memory.
struct QuantizedMatrix {
  WeightFormat format = WeightFormat::kInt8;
  const std::byte* data = nullptr;
  int64_t out_features = 0, in_features = 0;
};

}  // namespace nanovllm::cuda
