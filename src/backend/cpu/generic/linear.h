// Products with packed weights. One row is bound by reading the weights: panels are streamed
// through registers, a few at once. More rows are bound by arithmetic: 256 steps of a panel are
// unpacked into a scratch in the first-level cache (bfloat16 by the first tile of rows, while it
// multiplies), over which all rows pass in register tiles (tiles.h).
#pragma once

#include "backend/cpu/generic/tiles.h"

namespace {

using nanovllm::tile_count;
using nanovllm::tile_start;

// Calls f with the number of rows as a compile-time constant.
template <int kRows>
struct Rows {};
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
    one_row_bytes<kKind, kMode, kPanels>(panels, bytes, a.k, static_cast<const int8_t*>(a.prepared),
                                         acc);
  }
  for (int i = 0; i < kPanels; ++i) finish(a, p + i, acc[i], a.out);
}

// Whether a tile reads the panels as they lie; else they are unpacked into the scratch first.
template <PanelKind kKind, LinearMode kMode>
constexpr bool kDirect = kMode == LinearMode::kPairs ||
                         (kMode != LinearMode::kFloat && ByteTraits<kKind, kMode>::kDirect);

// Whether the first tile reads them as they lie: widening is a step on its way.
template <PanelKind kKind, LinearMode kMode>
constexpr bool kFirstWidens = (kKind == PanelKind::kBF16) && (kMode == LinearMode::kFloat);

// Steps k .. k + steps of panels p .. p + kPanels for the tiles first_tile .. last_tile, whose
// rows' accumulators start at acc. `next`: the weights that come then, null if none do.
template <PanelKind kKind, LinearMode kMode, int kPanels>
inline void panel_chunk(const LinearArgs& a, int64_t p, int64_t k, int64_t steps, int64_t tiles,
                        int64_t first_tile, int64_t last_tile, const uint8_t* next, float* scratch,
                        float* acc) {
  using Traits = ByteTraits<kKind, kMode>;
  constexpr bool kLies = kDirect<kKind, kMode> || kFirstWidens<kKind, kMode>;
  const int64_t panel_bytes = nanovllm::panel_bytes(kKind, a.k);
  const uint8_t* panels = a.panels + p * panel_bytes;
  TileWeights weights = {reinterpret_cast<const uint8_t*>(scratch), 0, {}, panel_bytes / a.k};
  if constexpr (kMode == LinearMode::kFloat) {
    for (int i = 0; !kFirstWidens<kKind, kMode> && i < kPanels; ++i)
      widen<kKind>(panels + i * panel_bytes, k, steps, scratch + i * kFloatSteps * 16);
  } else if constexpr (kDirect<kKind, kMode>) {
    weights.fetch_step = kMode == LinearMode::kPairs ? 64 : Groups<true, Traits::kCentred>::kBytes;
    weights.at = panels + k / (kMode == LinearMode::kPairs ? 2 : kQuantGroup) * weights.fetch_step;
    weights.distance = panel_bytes;
  } else {
    weights.distance = kLinearSteps / kQuantGroup * sizeof(UnpackedGroup);
    weights.fetch_step = panel_bytes * kQuantGroup / a.k;
    for (int i = 0; i < kPanels; ++i)
      unpack_groups<kKind>(
          panels + i * panel_bytes, k, steps,
          reinterpret_cast<UnpackedGroup*>(scratch) + i * (kLinearSteps / kQuantGroup));
  }
  const bool done = k + steps == a.k && (p + kPanels) * 16 <= a.n;
  TileSums sums = {acc, k == 0, nullptr, a.out_stride, a.bias && done ? a.bias + p * 16 : nullptr};
  int64_t row = tile_start(first_tile, tiles, a.rows);
  for (int64_t t = first_tile; t < last_tile; ++t) {
    const int64_t end = tile_start(t + 1, tiles, a.rows), rows = end - row;
    if (done) sums.out = a.out + row * a.out_stride + p * 16;
    // While the first tile reads the panels as they lie, it asks for what it comes to itself. Else
    // each tile asks for one of the next panels, a single one for all of them.
    for (int i = 0; i < kPanels; ++i) {
      const int64_t turn = t - first_tile - (kLies ? 1 : 0);
      weights.fetch[i] = weights.at;
      if (turn < 0)
        weights.fetch[i] = panels + k * panel_bytes / a.k + i * panel_bytes + kFetchAhead;
      else if (next && (turn == i || last_tile - t + turn <= i))
        weights.fetch[i] = next + i * panel_bytes;
    }
    with_rows<tile_rows<kMode>()>(rows, [&]<int kRows>(Rows<kRows>) {
      if constexpr (kMode == LinearMode::kFloat) {
        const float* x = static_cast<const float*>(a.prepared) + row * a.k + k * kRows;
        if (kFirstWidens<kKind, kMode> && t == first_tile) {
          TileWeights packed = weights;
          packed.at = panels + k * 32;
          packed.distance = panel_bytes;
          tile_floats<kRows, kPanels, true>(x, packed, steps, sums, scratch);
        } else {
          tile_floats<kRows, kPanels, false>(x, weights, steps, sums, nullptr);
        }
      } else if constexpr (kMode == LinearMode::kPairs) {
        tile_pairs<kRows, kPanels>(
            static_cast<const uint32_t*>(a.prepared) + row * ((a.k + 1) / 2) + k / 2 * kRows,
            weights, steps, sums);
      } else {
        tile_bytes<kRows, kPanels, Traits::kDirect, Traits::kNarrow, Traits::kCentre,
                   Traits::kHalves, Traits::kPlanes>(
            static_cast<const int8_t*>(a.prepared) + nanovllm::prepared_bytes(kMode, row, a.k) +
                k / kQuantGroup * kRows * activation_group_bytes(kMode),
            weights, steps, sums);
      }
    });
    sums.acc += rows * 16;
    row = end;
  }
}

// Steps of K over which all panels of a call pass before the next ones: as many as `rows` rows of x
// leave room for in a second-level cache.
constexpr int64_t kSpanBytes = 256 * 1024;
inline int64_t span_steps(LinearMode mode, int64_t rows) {
  const int64_t spans = kSpanBytes / nanovllm::prepared_bytes(mode, rows, kLinearSteps);
  return kLinearSteps * (spans > 1 ? spans : 1);
}

template <PanelKind kKind, LinearMode kMode>
void linear_kind(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  constexpr bool kStreamed = kMode != LinearMode::kFloat || nanovllm::panel_format(kKind).bits == 0;
  if (kStreamed && a.rows == 1) {
    int64_t p = first;
    if constexpr (kStreamed) {
      constexpr int kMost = kMode == LinearMode::kWords ? 2 : kRowPanels;
      for (; p + kMost <= last; p += kMost) one_row<kKind, kMode, kMost>(a, p);
      for (; p + 2 <= last; p += 2) one_row<kKind, kMode, 2>(a, p);
      if (p < last) one_row<kKind, kMode, 1>(a, p);
    }
    return;
  }
  constexpr int kMost = tile_rows<kMode>();
  constexpr int64_t kUnpacked = kMode == LinearMode::kFloat ? kFloatSteps : kLinearSteps;
  const int64_t tiles = tile_count(a.rows, kMost);
  const int64_t blocks = tile_count(tiles, kLinearRows / kMost);  // of tiles taken together
  const int64_t bytes = nanovllm::panel_bytes(kKind, a.k);
  float* acc = scratch + kLinearSteps * 16;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first_tile = tile_start(block, blocks, tiles);
    const int64_t last_tile = tile_start(block + 1, blocks, tiles);
    const int64_t row = tile_start(first_tile, tiles, a.rows);
    const int64_t rows = tile_start(last_tile, tiles, a.rows) - row;
    const int64_t span = span_steps(kMode, rows);
    for (int64_t p0 = first; p0 < last; p0 += kLinearPanels) {
      const int64_t p1 = p0 + kLinearPanels < last ? p0 + kLinearPanels : last;
      for (int64_t k0 = 0; k0 < a.k; k0 += span) {
        const int64_t k1 = k0 + span < a.k ? k0 + span : a.k;
        int64_t p = p0;
        const auto panels = [&]<int kPanels>(Panels<kPanels>) {
          for (; p + kPanels <= p1; p += kPanels)
            for (int64_t k = k0, steps; k < k1; k += steps) {
              steps = kDirect<kKind, kMode> || k1 - k < kUnpacked ? k1 - k : kUnpacked;
              const bool last = k + steps == k1;  // of these panels
              const int64_t next_k = last ? k0 : k + steps, next_p = last ? p + kPanels : p;
              const uint8_t* next = next_p + kPanels <= p1
                                        ? a.panels + next_p * bytes + bytes * next_k / a.k
                                        : nullptr;
              panel_chunk<kKind, kMode, kPanels>(a, p, k, steps, tiles, first_tile, last_tile, next,
                                                 scratch, acc + (p - p0) * kLinearRows * 16);
            }
        };
        panels(Panels<kTilePanels>());
        if constexpr (kTilePanels > 1) panels(Panels<1>());
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
    if constexpr (nanovllm::takes_bytes(kKind))
      if (a.mode == LinearMode::kBytes)
        return linear_kind<kKind, LinearMode::kBytes>(a, first, last, scratch);
    if constexpr (nanovllm::takes_words(kKind))
      linear_kind<kKind, LinearMode::kWords>(a, first, last, scratch);
  });
}

void dequantize_column(PanelKind kind, const uint8_t* panel, int column, int64_t k, float* out) {
  with_kind(kind, [&]<PanelKind kKind>(Kind<kKind>) {
    dequantize_column_kind<kKind>(panel, column, k, out);
  });
}

}  // namespace
