// Products with packed weights, in one of three arithmetics:
//
//   kFloat  acc = fma(w[k], x[k], acc) for k = 0, 1, 2 ..., weights widened to float
//   kPairs  bfloat16 dot products of two steps of K, x rounded to bfloat16
//   kBytes  x quantized in groups of 32 steps to 8 bits, or to 16 in two planes of bytes
//   kWords  (activations.h); the sum of a group's products is an exact integer, then
//           acc = fma(sum, w_scale * x_scale, acc), group by group
//
// One row is bound by reading the weights: panels are streamed through registers, two at once. More
// rows are bound by arithmetic: 256 steps of a panel are unpacked into a scratch in the first-level
// cache, over which all rows pass in register tiles. Both follow the same order, so they give the
// same bits.
#pragma once

#include "backend/cpu/generic/activations.h"
#include "backend/cpu/generic/unpack.h"

namespace {

using nanovllm::kLinearPanels;
using nanovllm::kLinearRows;
using nanovllm::tile_count;
using nanovllm::tile_start;

// How a kind's bytes are multiplied: with sums of 16 bits where quants are below 16, and with the
// zero point taken off in integers where the activations carry its multiple (kQ4, kQ8).
template <PanelKind kKind>
struct ByteTraits {
  static constexpr PanelFormat format = nanovllm::panel_format(kKind);
  static constexpr bool kNarrow = format.bits == 4;
  static constexpr bool kCentred = format.centre == 8 || format.centre == 128;
  static constexpr int kHalves = kQuantGroup / format.group;  // groups of weights in 32 steps
  static constexpr LinearMode kMode = format.bits == 8 ? LinearMode::kBytes : LinearMode::kWords;
  static constexpr int kPlanes = format.bits == 8 ? 1 : 2;
};

// acc += a group's (or half's) sum of products.
template <bool kCentred>
inline V add_group(I sum, V scale, V min, float x_scale, float x_sum, V acc) {
  acc = fma(to_float(sum), mul(scale, set1(x_scale)), acc);
  if constexpr (!kCentred) acc = fma(min, set1(x_sum), acc);
  return acc;
}

// ---- one row --------------------------------------------------------------------------------

template <PanelKind kKind, int kPanels>
inline void one_row_floats(const uint8_t* panels, int64_t panel_bytes, int64_t k_end,
                           const float* x, V* acc) {
  int64_t k = 0;
  if constexpr (kKind == PanelKind::kF32 || kKind == PanelKind::kF16) {
    for (; k < k_end; ++k) {
      const V xk = set1(x[k]);
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const uint8_t* panel = panels + p * panel_bytes;
        if constexpr (kKind == PanelKind::kF32) {
          acc[p] = fma(load(reinterpret_cast<const float*>(panel) + k * 16), xk, acc[p]);
        } else {
          acc[p] = fma(load_f16(reinterpret_cast<const uint16_t*>(panel) + k * 16), xk, acc[p]);
        }
      }
    }
  } else {
    for (; k + 1 < k_end; k += 2) {
      const V x0 = set1(x[k]), x1 = set1(x[k + 1]);
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const U u = load_u32(panels + p * panel_bytes + k / 2 * 64);
        acc[p] = fma(low_bf16(u), x0, acc[p]);
        acc[p] = fma(high_bf16(u), x1, acc[p]);
      }
    }
    if (k < k_end)
      for (int p = 0; p < kPanels; ++p)
        acc[p] = fma(low_bf16(load_u32(panels + p * panel_bytes + k / 2 * 64)), set1(x[k]), acc[p]);
  }
}

template <int kPanels>
inline void one_row_pairs(const uint8_t* panels, int64_t panel_bytes, int64_t k_end,
                          const uint32_t* x, V* acc) {
  for (int64_t k = 0; k < k_end; k += 2) {
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p)
      acc[p] = dot_pairs(acc[p], load_u32(panels + p * panel_bytes + k * 32), x + k / 2);
  }
}

constexpr int64_t kFetchAhead = 2048;  // bytes

template <PanelKind kKind, int kPanels>
inline void one_row_bytes(const uint8_t* panels, int64_t panel_bytes, int64_t k_end,
                          const int8_t* x, V* acc) {
  using Traits = ByteTraits<kKind>;
  constexpr PanelFormat f = Traits::format;
  constexpr int kFours = kQuantGroup / 4 / Traits::kHalves;
  for (int64_t k = 0; k < k_end; k += kQuantGroup, x += activation_group_bytes(Traits::kMode)) {
    const int64_t at = k % nanovllm::record_steps(f);
    const float* floats = reinterpret_cast<const float*>(x + kQuantGroup * Traits::kPlanes);
    const int32_t* centres = reinterpret_cast<const int32_t*>(floats + 4);
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* record =
          panels + p * panel_bytes + k / nanovllm::record_steps(f) * nanovllm::record_bytes(f);
      const uint8_t* quants = record + nanovllm::record_scale_bytes(f) +
                              at / kQuantGroup * nanovllm::group_quant_bytes(f);
      // Where a byte costs more than one instruction, loads far enough ahead would not fit the
      // processor's window.
      for (int64_t i = 0; f.bits < 8 && i < nanovllm::group_quant_bytes(f); i += 64)
        __builtin_prefetch(quants + kFetchAhead + i);
      NANO_VLLM_UNROLL
      for (int half = 0; half < Traits::kHalves; ++half) {
        I sum;
        if constexpr (Traits::kNarrow) {
          N high = zero_narrow(), low = zero_narrow();
          NANO_VLLM_UNROLL
          for (int four = 0; four < kFours; ++four) {
            const U u = four_steps<f.bits>(quants, four);
            high = dot_narrow(high, u, x + four * 4);
            low = dot_narrow(low, u, x + kQuantGroup + four * 4);
          }
          sum = sum_planes(high, low);
          if constexpr (Traits::kCentred) sum = add_int(sum, set1_int(centres[0]));
        } else {
          sum = set1_int(Traits::kCentred ? centres[1] : 0);
          I low = set1_int(0);
          NANO_VLLM_UNROLL
          for (int four = half * kFours; four < (half + 1) * kFours; ++four) {
            const U u = four_steps<f.bits>(quants, four);
            sum = dot_bytes(sum, u, x + four * 4);
            if constexpr (Traits::kPlanes == 2) low = dot_bytes(low, u, x + kQuantGroup + four * 4);
          }
          if constexpr (Traits::kPlanes == 2) sum = sum_planes(sum, low);
        }
        const ScaleMin s = group_scales<kKind>(record, static_cast<int>(at / f.group) + half);
        acc[p] = add_group<Traits::kCentred>(sum, s.scale, s.min, floats[0],
                                             floats[Traits::kHalves == 1 ? 1 : 2 + half], acc[p]);
      }
    }
  }
}

// ---- many rows: the register tiles ----------------------------------------------------------
// acc[r, 0..15] (+)= a tile of kRows rows times one panel's steps; acc rows are 16 floats apart.
// Starts from zero unless `accumulate`.

// x [steps][kRows], w [steps][16].
template <int kRows>
NANO_VLLM_NOINLINE void tile_floats(const float* x, const float* w, int64_t steps, float* acc,
                                    bool accumulate) {
  V a[kRows];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = accumulate ? load(acc + r * 16) : zero();
  for (int64_t k = 0; k < steps; ++k) {
    const V wk = load(w + k * 16);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) a[r] = fma(wk, set1(x[k * kRows + r]), a[r]);
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) store(acc + r * 16, a[r]);
}

// x [steps / 2][kRows] pairs, w [steps / 2][16] pairs, straight from the panel.
template <int kRows>
NANO_VLLM_NOINLINE void tile_pairs(const uint32_t* x, const uint8_t* w, int64_t steps, float* acc,
                                   bool accumulate) {
  V a[kRows];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = accumulate ? load(acc + r * 16) : zero();
  for (int64_t pair = 0; pair < (steps + 1) / 2; ++pair) {
    const U wk = load_u32(w + pair * 64);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) a[r] = dot_pairs(a[r], wk, x + pair * kRows + r);
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) store(acc + r * 16, a[r]);
}

// The products of kFours fours of steps for the rows of a tile.
template <int kRows, int kFours>
inline void narrow_products(const int8_t* x, const uint8_t* w, N* out) {
  N a[kRows];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = zero_narrow();
  NANO_VLLM_NO_UNROLL
  for (int four = 0; four < kFours; ++four) {
    const U u = load_u32(w + four * 64);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) a[r] = dot_narrow(a[r], u, x + (four * kRows + r) * 4);
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) out[r] = a[r];
}
template <int kRows, int kFours>
inline void byte_products(const int8_t* x, const uint8_t* w, I* sum) {
  NANO_VLLM_NO_UNROLL
  for (int four = 0; four < kFours; ++four) {
    const U u = load_u32(w + four * 64);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) sum[r] = dot_bytes(sum[r], u, x + (four * kRows + r) * 4);
  }
}

// x as prepare_groups leaves it. The two planes of kWords pass one after the other: sums of both
// would not fit AVX2's registers.
template <int kRows, bool kNarrow, bool kCentred, int kHalves, int kPlanes>
NANO_VLLM_NOINLINE void tile_bytes(const int8_t* x, const UnpackedGroup* w, int64_t steps,
                                   float* acc, bool accumulate) {
  constexpr LinearMode kMode = kPlanes == 2 ? LinearMode::kWords : LinearMode::kBytes;
  constexpr int kFours = kQuantGroup / 4 / kHalves;
  if (!accumulate)
    for (int r = 0; r < kRows; ++r) store(acc + r * 16, zero());
  for (int64_t k = 0; k < steps;
       k += kQuantGroup, ++w, x += kRows * activation_group_bytes(kMode)) {
    const float* floats = reinterpret_cast<const float*>(x + kRows * kQuantGroup * kPlanes);
    const int32_t* centres = reinterpret_cast<const int32_t*>(floats + 4 * kRows);
    for (int half = 0; half < kHalves; ++half) {
      const V scale = load(w->scale[half]);
      const V min = kCentred ? zero() : load(w->min[half]);
      const float* x_sums = floats + (kHalves == 1 ? 1 : 2 + half) * kRows;
      const int8_t* xh = x + half * kFours * 4 * kRows;
      const int8_t* x_low = xh + kQuantGroup * kRows;
      const uint8_t* wh = w->quants + half * kFours * 64;
      I sum[kRows];
      if constexpr (kNarrow) {
        N high[kRows], low[kRows];
        narrow_products<kRows, kFours>(xh, wh, high);
        narrow_products<kRows, kFours>(x_low, wh, low);
        NANO_VLLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          sum[r] = sum_planes(high[r], low[r]);
          if constexpr (kCentred) sum[r] = add_int(sum[r], set1_int(centres[r]));
        }
      } else {
        NANO_VLLM_UNROLL
        for (int r = 0; r < kRows; ++r) sum[r] = set1_int(kCentred ? centres[kRows + r] : 0);
        byte_products<kRows, kFours>(xh, wh, sum);
        if constexpr (kPlanes == 2) {
          I low[kRows];
          NANO_VLLM_UNROLL
          for (int r = 0; r < kRows; ++r) low[r] = set1_int(0);
          byte_products<kRows, kFours>(x_low, wh, low);
          NANO_VLLM_UNROLL
          for (int r = 0; r < kRows; ++r) sum[r] = sum_planes(sum[r], low[r]);
        }
      }
      NANO_VLLM_UNROLL
      for (int r = 0; r < kRows; ++r)
        store(acc + r * 16,
              add_group<kCentred>(sum[r], scale, min, floats[r], x_sums[r], load(acc + r * 16)));
    }
  }
}

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
    one_row_bytes<kKind, kPanels>(panels, bytes, a.k, static_cast<const int8_t*>(a.prepared), acc);
  }
  for (int i = 0; i < kPanels; ++i) finish(a, p + i, acc[i], a.out);
}

// Asks for `bytes` from memory into the second-level cache.
inline void prefetch(const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i, 0, 2);
}

// Steps k .. k + steps of panel p for the tiles first_tile .. last_tile, whose rows' accumulators
// start at acc.
template <PanelKind kKind, LinearMode kMode>
inline void panel_chunk(const LinearArgs& a, int64_t p, int64_t k, int64_t steps, int64_t tiles,
                        int64_t first_tile, int64_t last_tile, float* scratch, float* acc) {
  const uint8_t* panel = a.panels + p * nanovllm::panel_bytes(kKind, a.k);
  UnpackedGroup* groups = reinterpret_cast<UnpackedGroup*>(scratch);
  if constexpr (kMode == LinearMode::kFloat) {
    widen<kKind>(panel, k, steps, scratch);
  } else if constexpr (kMode != LinearMode::kPairs) {
    unpack_groups<kKind>(panel, k, steps, groups);
  }
  // The next panel's steps come from memory while this one's are used: a share with each tile.
  const int64_t panel_bytes = nanovllm::panel_bytes(kKind, a.k);
  const uint8_t* next = panel + panel_bytes + panel_bytes * k / a.k;
  const int64_t share = panel_bytes * steps / a.k / (last_tile - first_tile);
  int64_t row = tile_start(first_tile, tiles, a.rows);
  for (int64_t t = first_tile; t < last_tile; ++t) {
    const int64_t end = tile_start(t + 1, tiles, a.rows), rows = end - row;
    prefetch(next + (t - first_tile) * share, share);
    with_rows<tile_rows<kMode>()>(rows, [&]<int kRows>(Rows<kRows>) {
      if constexpr (kMode == LinearMode::kFloat) {
        tile_floats<kRows>(static_cast<const float*>(a.prepared) + row * a.k + k * kRows, scratch,
                           steps, acc, k > 0);
      } else if constexpr (kMode == LinearMode::kPairs) {
        tile_pairs<kRows>(
            static_cast<const uint32_t*>(a.prepared) + row * ((a.k + 1) / 2) + k / 2 * kRows,
            panel + k / 2 * 64, steps, acc, k > 0);
      } else {
        using Traits = ByteTraits<kKind>;
        tile_bytes<kRows, Traits::kNarrow, Traits::kCentred, Traits::kHalves, Traits::kPlanes>(
            static_cast<const int8_t*>(a.prepared) + nanovllm::prepared_bytes(kMode, row, a.k) +
                k / kQuantGroup * kRows * activation_group_bytes(kMode),
            groups, steps, acc, k > 0);
      }
    });
    acc += rows * 16;
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
  constexpr int64_t kBlock = kLinearRows / kMost;  // tiles taken together
  const int64_t tiles = tile_count(a.rows, kMost);
  float* acc = scratch + kLinearSteps * 16;
  for (int64_t first_tile = 0; first_tile < tiles; first_tile += kBlock) {
    const int64_t last_tile = first_tile + kBlock < tiles ? first_tile + kBlock : tiles;
    const int64_t row = tile_start(first_tile, tiles, a.rows);
    const int64_t rows = tile_start(last_tile, tiles, a.rows) - row;
    for (int64_t p0 = first; p0 < last; p0 += kLinearPanels) {
      const int64_t p1 = p0 + kLinearPanels < last ? p0 + kLinearPanels : last;
      for (int64_t k = 0; k < a.k; k += kLinearSteps) {
        const int64_t steps = a.k - k < kLinearSteps ? a.k - k : kLinearSteps;
        for (int64_t p = p0; p < p1; ++p)
          panel_chunk<kKind, kMode>(a, p, k, steps, tiles, first_tile, last_tile, scratch,
                                    acc + (p - p0) * kLinearRows * 16);
      }
      for (int64_t p = p0; p < p1; ++p)
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
