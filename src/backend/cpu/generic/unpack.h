// Packed weights read back from their panels (panels.h): as floats, or as bytes with their scales
// for dot products of integers.
#pragma once

#include "backend/cpu/generic/math.h"

namespace {

using nanovllm::kLinearSteps;
using nanovllm::kQuantGroup;
using nanovllm::PanelFormat;
using nanovllm::PanelKind;

// Memory answers after hundreds of multiply-adds, and a processor that waits looks too few of them
// ahead. So whoever passes over weights asks for those that come this many bytes later, or next.
constexpr int64_t kFetchAhead = 4096;

// Scale and min of a group's 16 columns.
struct ScaleMin {
  V scale, min;
};

// Of group `g` (of f.group steps) of a record.
template <PanelKind kKind>
inline ScaleMin group_scales(const uint8_t* record, int g) {
  constexpr PanelFormat f = nanovllm::panel_format(kKind);
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(record);
  ScaleMin s;
  s.scale = load_f16(halves);
  if constexpr (f.has_min()) s.min = load_f16(halves + 16);
  if constexpr (f.super) {
    const uint8_t* factors = record + (f.has_min() ? 64 : 32) + g * 16;
    V factor = load_u8(factors);
    if constexpr (!f.has_min()) factor = sub(factor, set1(128));  // Q6_K's are signed
    s.scale = mul(s.scale, factor);
    if constexpr (f.has_min())
      s.min = sub(zero(), mul(s.min, load_u8(factors + nanovllm::kSuperBlock / f.group * 16)));
  }
  if constexpr (!f.has_min()) s.min = mul(s.scale, set1(static_cast<float>(-f.centre)));
  return s;
}

// Four steps of K, 4 * s onwards, of the 16 columns of a group of 32: a byte each.
template <int kBits>
inline U four_steps(const uint8_t* quants, int s) {
  if constexpr (kBits == 8) {
    return load_u32(quants + s * 64);
  } else {
    const U low = bits(load_u32(quants + s / 2 * 64), s % 2 * 4, 0x0f0f0f0f);
    if constexpr (kBits == 4) {
      return low;
    } else {
      return either(low, bits(load_u32(quants + 256 + s / 4 * 64), s % 4 * 2 - 4, 0x30303030));
    }
  }
}

// Writes `steps` rows of 16 weights from step k0 of a panel to w (room for kLinearSteps rows; whole
// groups are written). k0 is a multiple of kQuantGroup.
template <PanelKind kKind>
NANO_VLLM_NOINLINE void widen(const uint8_t* panel, int64_t k0, int64_t steps, float* w) {
  constexpr PanelFormat f = nanovllm::panel_format(kKind);
  if constexpr (kKind == PanelKind::kF32) {
    const float* p = reinterpret_cast<const float*>(panel) + k0 * 16;
    for (int64_t k = 0; k < steps; ++k) store(w + k * 16, load(p + k * 16));
  } else if constexpr (kKind == PanelKind::kF16) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(panel) + k0 * 16;
    for (int64_t k = 0; k < steps; ++k) store(w + k * 16, load_f16(p + k * 16));
  } else if constexpr (kKind == PanelKind::kBF16) {
    const uint8_t* p = panel + k0 / 2 * 64;
    for (int64_t k = 0; k < steps; k += 2) {
      const U u = load_u32(p + k / 2 * 64);
      store(w + k * 16, low_bf16(u));
      store(w + k * 16 + 16, high_bf16(u));
    }
  } else {
    for (int64_t k = 0; k < steps; k += kQuantGroup) {
      const int64_t at = (k0 + k) % nanovllm::record_steps(f);
      const uint8_t* record =
          panel + (k0 + k) / nanovllm::record_steps(f) * nanovllm::record_bytes(f);
      const uint8_t* quants = record + nanovllm::record_scale_bytes(f) +
                              at / kQuantGroup * nanovllm::group_quant_bytes(f);
      ScaleMin s;
      for (int four = 0; four < kQuantGroup / 4; ++four) {
        if (four * 4 % f.group == 0)
          s = group_scales<kKind>(record, static_cast<int>((at + four * 4) / f.group));
        const U u = four_steps<f.bits>(quants, four);
        for (int i = 0; i < 4; ++i)
          store(w + (k + four * 4 + i) * 16, fma(field(u, 8 * i, 0xff), s.scale, s.min));
      }
    }
  }
}

// Column `column` of a panel: a row of the original matrix.
template <PanelKind kKind>
void dequantize_column_kind(const uint8_t* panel, int column, int64_t k_end, float* out) {
  alignas(64) float w[kLinearSteps * 16];
  for (int64_t k = 0; k < k_end; k += kLinearSteps) {
    const int64_t steps = k_end - k < kLinearSteps ? k_end - k : kLinearSteps;
    widen<kKind>(panel, k, steps, w);
    for (int64_t i = 0; i < steps; ++i) out[k + i] = w[i * 16 + column];
  }
}

// A group of 32 steps as the integer products take it: bytes [8][16][4], then the scales and mins
// of its one or two groups of weights.
struct UnpackedGroup {
  alignas(64) uint8_t quants[kQuantGroup * 16];
  float scale[2][16];
  float min[2][16];
};

template <PanelKind kKind>
NANO_VLLM_NOINLINE void unpack_groups(const uint8_t* panel, int64_t k0, int64_t steps,
                                      UnpackedGroup* out) {
  constexpr PanelFormat f = nanovllm::panel_format(kKind);
  for (int64_t k = k0; k < k0 + steps; k += kQuantGroup, ++out) {
    const int64_t at = k % nanovllm::record_steps(f);
    const uint8_t* record = panel + k / nanovllm::record_steps(f) * nanovllm::record_bytes(f);
    const uint8_t* quants = record + nanovllm::record_scale_bytes(f) +
                            at / kQuantGroup * nanovllm::group_quant_bytes(f);
    fetch<nanovllm::group_quant_bytes(f)>(quants + kFetchAhead);
    for (int i = 0; i < kQuantGroup / f.group; ++i) {
      const ScaleMin s = group_scales<kKind>(record, static_cast<int>(at / f.group) + i);
      store(out->scale[i], s.scale);
      store(out->min[i], s.min);
    }
    NANO_VLLM_UNROLL
    for (int four = 0; four < kQuantGroup / 4; ++four)
      store_u32(out->quants + four * 64, four_steps<f.bits>(quants, four));
  }
}

}  // namespace
