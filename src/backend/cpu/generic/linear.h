// Products with packed weights. One row is bound by reading the weights: panels are streamed
// through registers, two at once. More rows are bound by arithmetic: 256 steps of a panel are
// unpacked into a scratch in the first-level cache, over which all rows pass in register tiles
// (products.h).
#pragma once

#include "backend/cpu/generic/products.h"

namespace {

using nanovllm::tile_count;
using nanovllm::tile_start;

// Calls f with the number of rows as a compile-time constant.
template <int kRows>
struct Rows {};
template <int kPanels>
struct Panels {};
template <int kMost, typename F>
inline void with_rows(int64_t rows, const F& f) {
  if (rows == kMost) return f(Rows<kMost>());
  if constexpr (kMost > 1) with_rows<kMost - 1>(rows, f);
}

// ---- what the table holds -------------------------------------------------------------------

template <LinearMode kMode>
constexpr int tile_rows() {
  return kMode == LinearMode::kFloat || kMode == LinearMode::kPairs ? kTileRows : kByteTileRows;
}

void prepare(const LinearArgs& a, int64_t first, int64_t last) {
  const auto each_tile = [&](int most, const auto& f) {
    const int64_t tiles = tile_count(a.rows, most);
    for (int64_t t = first; t < last; ++t) {
      const int64_t row = tile_start(t, tiles, a.rows);
      f(row, tile_start(t + 1, tiles, a.rows) - row);
    }
  };
  const auto groups_of = [&](int64_t row) {
    return static_cast<int8_t*>(a.prepared) + nanovllm::prepared_bytes(a.mode, row, a.k);
  };
  switch (a.mode) {
    case LinearMode::kFloat:
      return each_tile(kTileRows, [&](int64_t row, int64_t rows) {
        prepare_floats(a, row, rows, static_cast<float*>(a.prepared) + row * a.k);
      });
    case LinearMode::kPairs:
      return each_tile(kTileRows, [&](int64_t row, int64_t rows) {
        prepare_pairs(a, row, rows, static_cast<uint32_t*>(a.prepared) + row * ((a.k + 1) / 2));
      });
    case LinearMode::kBytes:
      return each_tile(kByteTileRows, [&](int64_t row, int64_t rows) {
        prepare_groups<LinearMode::kBytes>(a, row, rows, groups_of(row));
      });
    case LinearMode::kWords:
      return each_tile(kByteTileRows, [&](int64_t row, int64_t rows) {
        prepare_groups<LinearMode::kWords>(a, row, rows, groups_of(row));
      });
  }
}

// Adds the bias of panel `p` and writes its used columns.
inline void finish(const LinearArgs& a, int64_t p, V acc, float* out_row) {
  const int64_t column = p * 16, used = a.n - column;
  if (used >= 16) {
    if (a.bias) acc = add(acc, load(a.bias + column));
    store(out_row + column, acc);
  } else {
    if (a.bias) acc = add(acc, load_first(a.bias + column, used));
    store_first(out_row + column, acc, used);
  }
}

template <PanelKind kKind, LinearMode kMode, int kPanels>
NANO_VLLM_NOINLINE void one_row(const LinearArgs& a, int64_t p) {
  const int64_t bytes = nanovllm::panel_bytes(kKind, a.k);
  const uint8_t* panels = a.panels + p * bytes;
  V acc[kPanels];
  for (int i = 0; i < kPanels; ++i) acc[i] = zero();
  if constexpr (kMode == LinearMode::kFloat) {
    one_row_floats<kKind, kPanels>(panels, bytes, a.k, a.x, acc);
  } else if constexpr (kMode == LinearMode::kPairs) {
    one_row_pairs<kPanels>(panels, bytes, a.k, static_cast<const uint32_t*>(a.prepared), acc);
  } else {
    one_row_bytes<kKind, kPanels>(panels, bytes, a.k, static_cast<const int8_t*>(a.prepared), acc);
  }
  for (int i = 0; i < kPanels; ++i) finish(a, p + i, acc[i], a.out);
}

// Asks for `bytes` from memory into the second-level cache.
inline void prefetch(const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// Steps k .. k + steps of panels p .. p + kPanels for the tiles first_tile .. last_tile, whose
// rows' accumulators start at acc.
template <PanelKind kKind, LinearMode kMode, int kPanels>
inline void panel_chunk(const LinearArgs& a, int64_t p, int64_t k, int64_t steps, int64_t tiles,
                        int64_t first_tile, int64_t last_tile, float* scratch, float* acc) {
  using Traits = ByteTraits<kKind>;
  const int64_t panel_bytes = nanovllm::panel_bytes(kKind, a.k);
  const uint8_t* panels = a.panels + p * panel_bytes;
  const uint8_t* groups = reinterpret_cast<const uint8_t*>(scratch);
  int64_t groups_distance = kLinearSteps / kQuantGroup * sizeof(UnpackedGroup);
  if constexpr (kMode == LinearMode::kFloat) {
    for (int i = 0; i < kPanels; ++i)
      widen<kKind>(panels + i * panel_bytes, k, steps, scratch + i * kFloatSteps * 16);
  } else if constexpr (kMode != LinearMode::kPairs && Traits::kDirect) {
    groups = panels + k / kQuantGroup * Groups<true, Traits::kCentred>::kBytes;
    groups_distance = panel_bytes;
  } else if constexpr (kMode != LinearMode::kPairs) {
    for (int i = 0; i < kPanels; ++i)
      unpack_groups<kKind>(
          panels + i * panel_bytes, k, steps,
          reinterpret_cast<UnpackedGroup*>(scratch) + i * (kLinearSteps / kQuantGroup));
  }
  // The next panels' steps come from memory while these are used: a share with each tile.
  const uint8_t* next = panels + kPanels * panel_bytes + panel_bytes * k / a.k;
  const int64_t share = panel_bytes * steps / a.k / (last_tile - first_tile);
  const bool done = k + steps == a.k && (p + kPanels) * 16 <= a.n;
  TileSums sums = {acc, k == 0, nullptr, a.out_stride, a.bias && done ? a.bias + p * 16 : nullptr};
  int64_t row = tile_start(first_tile, tiles, a.rows);
  for (int64_t t = first_tile; t < last_tile; ++t) {
    const int64_t end = tile_start(t + 1, tiles, a.rows), rows = end - row;
    if (done) sums.out = a.out + row * a.out_stride + p * 16;
    for (int i = 0; i < kPanels; ++i)
      prefetch(next + i * panel_bytes + (t - first_tile) * share, share);
    with_rows<tile_rows<kMode>()>(rows, [&]<int kRows>(Rows<kRows>) {
      if constexpr (kMode == LinearMode::kFloat) {
        tile_floats<kRows, kPanels>(static_cast<const float*>(a.prepared) + row * a.k + k * kRows,
                                    scratch, steps, sums);
      } else if constexpr (kMode == LinearMode::kPairs) {
        tile_pairs<kRows, kPanels>(
            static_cast<const uint32_t*>(a.prepared) + row * ((a.k + 1) / 2) + k / 2 * kRows,
            panels + k / 2 * 64, panel_bytes, steps, sums);
      } else {
        tile_bytes<kRows, kPanels, Traits::kDirect, Traits::kNarrow, Traits::kCentre,
                   Traits::kHalves, Traits::kPlanes>(
            static_cast<const int8_t*>(a.prepared) + nanovllm::prepared_bytes(kMode, row, a.k) +
                k / kQuantGroup * kRows * activation_group_bytes(kMode),
            groups, groups_distance, steps, sums);
      }
    });
    sums.acc += rows * 16;
    row = end;
  }
}

template <PanelKind kKind, LinearMode kMode>
void linear_kind(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  constexpr bool kStreamed = kMode != LinearMode::kFloat || nanovllm::panel_format(kKind).bits == 0;
  if (kStreamed && a.rows == 1) {
    int64_t p = first;
    if constexpr (kStreamed) {
      for (; p + 2 <= last; p += 2) one_row<kKind, kMode, 2>(a, p);
      if (p < last) one_row<kKind, kMode, 1>(a, p);
    }
    return;
  }
  constexpr int kMost = tile_rows<kMode>();
  const int64_t tiles = tile_count(a.rows, kMost);
  const int64_t blocks = tile_count(tiles, kLinearRows / kMost);  // of tiles taken together
  float* acc = scratch + kLinearSteps * 16;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first_tile = tile_start(block, blocks, tiles);
    const int64_t last_tile = tile_start(block + 1, blocks, tiles);
    const int64_t row = tile_start(first_tile, tiles, a.rows);
    const int64_t rows = tile_start(last_tile, tiles, a.rows) - row;
    for (int64_t p0 = first; p0 < last; p0 += kLinearPanels) {
      const int64_t p1 = p0 + kLinearPanels < last ? p0 + kLinearPanels : last;
      constexpr int64_t kChunk = kMode == LinearMode::kFloat ? kFloatSteps : kLinearSteps;
      for (int64_t k = 0; k < a.k; k += kChunk) {
        const int64_t steps = a.k - k < kChunk ? a.k - k : kChunk;
        int64_t p = p0;
        const auto chunk = [&]<int kPanels>(Panels<kPanels>) {
          for (; p + kPanels <= p1; p += kPanels)
            panel_chunk<kKind, kMode, kPanels>(a, p, k, steps, tiles, first_tile, last_tile,
                                               scratch, acc + (p - p0) * kLinearRows * 16);
        };
        chunk(Panels<kTilePanels>());
        if constexpr (kTilePanels > 1) chunk(Panels<1>());
      }
      // What shares a call with a panel that is partly used is still in acc.
      if (p1 * 16 <= a.n) continue;
      for (int64_t p = p1 - (p1 - p0 - 1) % kTilePanels - 1; p < p1; ++p)
        for (int64_t r = 0; r < rows; ++r)
          finish(a, p, load(acc + ((p - p0) * kLinearRows + r) * 16),
                 a.out + (row + r) * a.out_stride);
    }
  }
}

// Calls f with the kind as a compile-time constant.
template <PanelKind kKind>
struct Kind {};
template <typename F>
inline void with_kind(PanelKind kind, const F& f) {
  switch (kind) {
    case PanelKind::kF32:
      return f(Kind<PanelKind::kF32>());
    case PanelKind::kBF16:
      return f(Kind<PanelKind::kBF16>());
    case PanelKind::kF16:
      return f(Kind<PanelKind::kF16>());
    case PanelKind::kQ4:
      return f(Kind<PanelKind::kQ4>());
    case PanelKind::kQ4Min:
      return f(Kind<PanelKind::kQ4Min>());
    case PanelKind::kQ4Super:
      return f(Kind<PanelKind::kQ4Super>());
    case PanelKind::kQ6:
      return f(Kind<PanelKind::kQ6>());
    case PanelKind::kQ6Min:
      return f(Kind<PanelKind::kQ6Min>());
    case PanelKind::kQ6Super:
      return f(Kind<PanelKind::kQ6Super>());
    case PanelKind::kQ6Super16:
      return f(Kind<PanelKind::kQ6Super16>());
    case PanelKind::kQ8:
      return f(Kind<PanelKind::kQ8>());
    case PanelKind::kQ8Min:
      return f(Kind<PanelKind::kQ8Min>());
  }
}

void linear(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  with_kind(a.kind, [&]<PanelKind kKind>(Kind<kKind>) {
    if (a.mode == LinearMode::kFloat)
      return linear_kind<kKind, LinearMode::kFloat>(a, first, last, scratch);
    if constexpr (kHasPairs && kKind == PanelKind::kBF16)
      linear_kind<kKind, LinearMode::kPairs>(a, first, last, scratch);
    if constexpr (nanovllm::panel_format(kKind).bits != 0)
      linear_kind<kKind, ByteTraits<kKind>::kMode>(a, first, last, scratch);
  });
}

void dequantize_column(PanelKind kind, const uint8_t* panel, int column, int64_t k, float* out) {
  with_kind(kind, [&]<PanelKind kKind>(Kind<kKind>) {
    dequantize_column_kind<kKind>(panel, column, k, out);
  });
}

}  // namespace
