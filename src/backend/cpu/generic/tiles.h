// Many rows: the register tiles. A tile of kRows rows times the steps of kPanels neighbouring
// panels. Two panels share the broadcasts of x, where there are registers enough.
#pragma once

#include "backend/cpu/generic/products.h"

namespace {

// A tile's sums of the steps so far, [kPanels][kLinearRows][16], and where they go.
struct TileSums {
  float* acc;
  bool first;  // nothing is in acc yet
  float* out;  // null: they stay in acc; else row r of panel p goes to out + r * stride + 16 p
  int64_t out_stride;
  const float* bias;  // added to what goes to out; may be null
};

template <int kRows, int kPanels>
struct Tile {
  V v[kPanels][kRows];

  static float* at(const TileSums& sums, int p, int r) {
    return sums.acc + (p * kLinearRows + r) * 16;
  }
  void start(const TileSums& sums) {
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      NANO_VLLM_UNROLL
      for (int r = 0; r < kRows; ++r) v[p][r] = sums.first ? zero() : load(at(sums, p, r));
    }
  }
  void finish(const TileSums& sums) const {
    const TileSums s = sums;  // a copy, which no store below can change
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const V bias = s.bias ? load(s.bias + p * 16) : zero();
      NANO_VLLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const V sum = v[p][r];
        if (!s.out)
          store(at(s, p, r), sum);
        else
          store(s.out + r * s.out_stride + p * 16, s.bias ? add(sum, bias) : sum);
      }
    }
  }
};

// A tile's weights, and what it asks memory for while it computes.
struct TileWeights {
  const uint8_t* at;                  // of the first panel
  int64_t distance;                   // bytes from panel to panel
  const uint8_t* fetch[kTilePanels];  // from here on, so many bytes for each step of the loop
  int64_t fetch_step;
};

// x [steps][kRows]; weights [kPanels][kFloatSteps][16] floats, or bfloat16 panels as they lie,
// which this tile leaves as such floats in `widened` for those after it.
template <int kRows, int kPanels, bool kWiden>
NANO_VLLM_NOINLINE void tile_floats(const float* x, const TileWeights& weights, int64_t steps,
                                    const TileSums& sums, float* widened) {
  const auto floats = [](auto* w, int p, int64_t k) { return w + (p * kFloatSteps + k) * 16; };
  Tile<kRows, kPanels> a;
  a.start(sums);
  const auto add_step = [&](int64_t k, const V(&wk)[kPanels]) {
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const V xk = set1(x[k * kRows + r]);
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) a.v[p][r] = fma(wk[p], xk, a.v[p][r]);
    }
  };
  if constexpr (kWiden) {
    for (int64_t k = 0; k < steps; k += 2) {
      V wk[kPanels];
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        fetch<64>(weights.fetch[p] + k * weights.fetch_step);
        wk[p] = low_bf16(load_u32(weights.at + p * weights.distance + k * 32));
        store(floats(widened, p, k), wk[p]);
      }
      add_step(k, wk);
      if (k + 1 == steps) break;
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        wk[p] = high_bf16(load_u32(weights.at + p * weights.distance + k * 32));
        store(floats(widened, p, k + 1), wk[p]);
      }
      add_step(k + 1, wk);
    }
  } else {
    for (int64_t k = 0; k < steps; ++k) {
      V wk[kPanels];
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        wk[p] = load(floats(reinterpret_cast<const float*>(weights.at), p, k));
        fetch<64>(weights.fetch[p] + k * weights.fetch_step);
      }
      add_step(k, wk);
    }
  }
  a.finish(sums);
}

// x [steps / 2][kRows] pairs, weights [steps / 2][16] pairs.
template <int kRows, int kPanels>
NANO_VLLM_NOINLINE void tile_pairs(const uint32_t* x, const TileWeights& w, int64_t steps,
                                   const TileSums& sums) {
  Tile<kRows, kPanels> a;
  a.start(sums);
  for (int64_t pair = 0; pair < (steps + 1) / 2; ++pair) {
    U wk[kPanels];
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      wk[p] = load_u32(w.at + p * w.distance + pair * 64);
      fetch<64>(w.fetch[p] + pair * 64);
    }
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const uint32_t* xk = x + pair * kRows + r;
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) a.v[p][r] = dot_pairs(a.v[p][r], wk[p], xk);
    }
  }
  a.finish(sums);
}

// A panel's groups of 32 steps as a tile takes them: unpacked ones, or records of 8 bits, which
// already lie so.
template <bool kDirect, bool kCentred>
struct Groups {
  static constexpr int64_t kScales = kCentred ? 32 : 64;
  static constexpr int64_t kBytes = kDirect ? kScales + kQuantGroup * 16 : sizeof(UnpackedGroup);
  const uint8_t* group;

  const uint8_t* quants() const { return group + (kDirect ? kScales : 0); }
  V scale(int half) const {
    if constexpr (kDirect) return load_f16(reinterpret_cast<const uint16_t*>(group));
    return load(reinterpret_cast<const UnpackedGroup*>(group)->scale[half]);
  }
  V min(int half) const {
    if constexpr (kCentred) return zero();
    if constexpr (kDirect) return load_f16(reinterpret_cast<const uint16_t*>(group) + 16);
    return load(reinterpret_cast<const UnpackedGroup*>(group)->min[half]);
  }
};

// The products of kFours fours of steps for the rows of a tile, in sums of 16 and of 32 bits.
template <int kRows, int kFours>
inline void narrow_products(const int8_t* x, const uint8_t* w, N* out) {
  N a[kRows];
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) a[r] = zero_narrow();
  NANO_VLLM_UNROLL
  for (int four = 0; four < kFours; ++four) {
    const U u = load_u32(w + four * 64);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) a[r] = dot_narrow(a[r], u, x + (four * kRows + r) * 4);
  }
  NANO_VLLM_UNROLL
  for (int r = 0; r < kRows; ++r) out[r] = a[r];
}
template <int kRows, int kPanels, int kFours>
inline void byte_products(const int8_t* x, const uint8_t* w, int64_t w_distance,
                          I (&sum)[kPanels][kRows]) {
  NANO_VLLM_UNROLL
  for (int four = 0; four < kFours; ++four) {
    U u[kPanels];
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p) u[p] = load_u32(w + p * w_distance + four * 64);
    NANO_VLLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p)
        sum[p][r] = dot_bytes(sum[p][r], u[p], x + (four * kRows + r) * 4);
    }
  }
}

// x as prepare_groups leaves it. The two planes of kWords pass one after the other: sums of both
// would not fit the registers.
template <int kRows, int kPanels, bool kDirect, bool kNarrow, int kCentre, int kHalves, int kPlanes>
NANO_VLLM_NOINLINE void tile_bytes(const int8_t* x, const TileWeights& weights, int64_t steps,
                                   const TileSums& sums) {
  constexpr LinearMode kMode = kPlanes == 2 ? LinearMode::kWords : LinearMode::kBytes;
  constexpr int kFours = kQuantGroup / 4 / kHalves;
  constexpr bool kCentred = kCentre > 0;
  using Source = Groups<kDirect, kCentred>;
  using At = Tile<kRows, kPanels>;
  Tile<kRows, kPanels> total;
  if constexpr (kTotalsInRegisters) {
    total.start(sums);
  } else if (sums.first) {
    for (int r = 0; r < kRows; ++r) store(At::at(sums, 0, r), zero());
  }
  const uint8_t* w = weights.at;
  const int64_t w_distance = weights.distance;
  for (int64_t k = 0; k < steps; k += kQuantGroup, w += Source::kBytes) {
    // Packed in 6 bits at most if unpacked: 384 bytes.
    for (int p = 0; p < kPanels; ++p)
      fetch<kDirect ? Source::kBytes : kQuantGroup * 16 * 6 / 8>(
          weights.fetch[p] + k / kQuantGroup * weights.fetch_step);
    const float* floats = reinterpret_cast<const float*>(x + kRows * kQuantGroup * kPlanes);
    const int32_t* centres =
        reinterpret_cast<const int32_t*>(floats + 4 * kRows) + (kCentre == 128 ? kRows : 0);
    for (int half = 0; half < kHalves; ++half) {
      const float* x_sums = floats + (kHalves == 1 ? 1 : 2 + half) * kRows;
      const int8_t* xh = x + half * kFours * 4 * kRows;
      const int8_t* x_low = xh + kQuantGroup * kRows;
      const uint8_t* wh = Source{w}.quants() + half * kFours * 64;
      I sum[kPanels][kRows];
      if constexpr (kNarrow) {
        NANO_VLLM_UNROLL
        for (int p = 0; p < kPanels; ++p) {
          N high[kRows], low[kRows];
          narrow_products<kRows, kFours>(xh, wh + p * w_distance, high);
          if constexpr (kPlanes == 2)
            narrow_products<kRows, kFours>(x_low, wh + p * w_distance, low);
          NANO_VLLM_UNROLL
          for (int r = 0; r < kRows; ++r) {
            sum[p][r] = kPlanes == 2 ? sum_planes(high[r], low[r]) : widened(high[r]);
            if constexpr (kCentred) sum[p][r] = add_int(sum[p][r], set1_int(centres[r]));
          }
        }
      } else {
        NANO_VLLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          NANO_VLLM_UNROLL
          for (int p = 0; p < kPanels; ++p)
            sum[p][r] = set1_int(kCentred && kPlanes == 1 ? centres[r] : 0);
        }
        byte_products<kRows, kPanels, kFours>(xh, wh, w_distance, sum);
        if constexpr (kPlanes == 2) {
          NANO_VLLM_UNROLL
          for (int r = 0; r < kRows; ++r) {
            NANO_VLLM_UNROLL
            for (int p = 0; p < kPanels; ++p)
              sum[p][r] = sum_planes(sum[p][r], set1_int(kCentred ? centres[r] : 0));
          }
          byte_products<kRows, kPanels, kFours>(x_low, wh, w_distance, sum);
        }
      }
      NANO_VLLM_UNROLL
      for (int p = 0; p < kPanels; ++p) {
        const V scale = Source{w + p * w_distance}.scale(half);
        const V min = Source{w + p * w_distance}.min(half);
        NANO_VLLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          V& t = total.v[p][r];
          if constexpr (!kTotalsInRegisters) t = load(At::at(sums, p, r));
          t = add_group<kCentred>(sum[p][r], scale, min, floats[r], x_sums[r], t);
          if constexpr (!kTotalsInRegisters) store(At::at(sums, p, r), t);
        }
      }
    }
    x += kRows * activation_group_bytes(kMode);
  }
  if constexpr (kTotalsInRegisters) {
    total.finish(sums);
  } else if (sums.out) {
    total.start({sums.acc, false});
    total.finish(sums);
  }
}

}  // namespace
