// What multiplies: one row, or a tile of rows, times panels, in one of three arithmetics:
//
//   kFloat  acc = fma(w[k], x[k], acc) for k = 0, 1, 2 ..., weights widened to float
//   kPairs  bfloat16 dot products of two steps of K, x rounded to bfloat16
//   kBytes  x quantized in groups of 32 steps to 8 bits, or to 16 in two planes of bytes
//   kWords  (activations.h); the sum of a group's products is an exact integer, then
//           acc = fma(sum, w_scale * x_scale, acc), group by group
//
// One row reads its panels as they lie, a tile (tiles.h) unpacked ones (linear.h says when which).
// Both follow the same order, so they give the same bits.
#pragma once

#include "backend/cpu/generic/activations.h"
#include "backend/cpu/generic/unpack.h"

namespace {

using nanovllm::kLinearPanels;
using nanovllm::kLinearRows;

// Steps of widened weights at a time: a tile's panels fill half a first-level cache of 32 KiB.
constexpr int kFloatSteps = kLinearSteps / kTilePanels;

// How a kind's bytes are multiplied: with sums of 16 bits where quants are below 16 and sums of 32
// would cost more, and with the zero point taken off in integers where the activations carry its
// multiple (kQ4, kQ8).
template <PanelKind kKind, LinearMode kMode>
struct ByteTraits {
  static constexpr PanelFormat format = nanovllm::panel_format(kKind);
  static constexpr bool kNarrow = format.bits == 4 && kNarrowSums;
  static constexpr bool kCentred = format.centre == 8 || format.centre == 128;
  static constexpr int kCentre = kCentred ? format.centre : 0;
  static constexpr bool kDirect = format.bits == 8;
  static constexpr int kHalves = kQuantGroup / format.group;  // groups of weights in 32 steps
  static constexpr int kPlanes = kMode == LinearMode::kWords ? 2 : 1;
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
        if constexpr (kRowAsks)
          fetch<64>(panel + (kKind == PanelKind::kF32 ? k * 64 : k * 32) + kFetchAhead);
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
        const uint8_t* panel = panels + p * panel_bytes + k / 2 * 64;
        if constexpr (kRowAsks) fetch<64>(panel + kFetchAhead);
        const U u = load_u32(panel);
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
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* panel = panels + p * panel_bytes + k * 32;
      if constexpr (kRowAsks) fetch<64>(panel + kFetchAhead);
      acc[p] = dot_pairs(acc[p], load_u32(panel), x + k / 2);
    }
  }
}

template <PanelKind kKind, LinearMode kMode, int kPanels>
inline void one_row_bytes(const uint8_t* panels, int64_t panel_bytes, int64_t k_end,
                          const int8_t* x, V* acc) {
  using Traits = ByteTraits<kKind, kMode>;
  constexpr PanelFormat f = Traits::format;
  constexpr int kFours = kQuantGroup / 4 / Traits::kHalves;
  // Near its end a panel asks for the next call's: behind it lies one that this call reads itself.
  const int64_t near_end = k_end - k_end * kFetchAhead / panel_bytes;
  for (int64_t k = 0; k < k_end; k += kQuantGroup, x += activation_group_bytes(kMode)) {
    const int64_t at = k % nanovllm::record_steps(f);
    const float* floats = reinterpret_cast<const float*>(x + kQuantGroup * Traits::kPlanes);
    const int32_t* centres = reinterpret_cast<const int32_t*>(floats + 4);
    const int32_t centre = Traits::kCentred ? centres[Traits::kCentre == 128 ? 1 : 0] : 0;
    const int64_t ahead = kFetchAhead + (k < near_end ? 0 : (kPanels - 1) * panel_bytes);
    NANO_VLLM_UNROLL
    for (int p = 0; p < kPanels; ++p) {
      const uint8_t* record =
          panels + p * panel_bytes + k / nanovllm::record_steps(f) * nanovllm::record_bytes(f);
      const uint8_t* quants = record + nanovllm::record_scale_bytes(f) +
                              at / kQuantGroup * nanovllm::group_quant_bytes(f);
      constexpr int64_t kAsked =
          f.super ? nanovllm::group_quant_bytes(f) : nanovllm::record_bytes(f);
      if constexpr (kRowAsks || kMode == LinearMode::kWords) fetch<kAsked, 3>(quants + ahead);
      NANO_VLLM_UNROLL
      for (int half = 0; half < Traits::kHalves; ++half) {
        I sum;
        if constexpr (Traits::kNarrow) {
          N high = zero_narrow(), low = zero_narrow();
          NANO_VLLM_UNROLL
          for (int four = 0; four < kFours; ++four) {
            const U u = four_steps<f.bits>(quants, four);
            high = dot_narrow(high, u, x + four * 4);
            if constexpr (Traits::kPlanes == 2)
              low = dot_narrow(low, u, x + kQuantGroup + four * 4);
          }
          sum = Traits::kPlanes == 2 ? sum_planes(high, low) : widened(high);
          if constexpr (Traits::kCentred) sum = add_int(sum, set1_int(centre));
        } else {
          sum = set1_int(Traits::kPlanes == 1 ? centre : 0);
          I low = set1_int(centre);
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

}  // namespace
