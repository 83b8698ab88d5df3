// Products with packed weights. One row is bound by reading the weights: two panels are streamed at
// once, widened in registers. Many rows are bound by multiply-adds: a panel is widened for 256
// steps of K into a scratch in the first-level cache and every row passes over it in register
// tiles. Both compute acc = fma(w[k], x[k], acc) in the order of k, so they give the same bits.
#pragma once

#include "backend/cpu/generic/tile.h"

namespace {

using nanovllm::KernelTable;
using nanovllm::kLinearRows;
using nanovllm::kLinearSteps;
using nanovllm::LinearArgs;
using nanovllm::PanelFormat;
using nanovllm::PanelKind;

// Scale and min of a record's 16 columns.
struct ScaleMin {
  V scale, min;
};

template <PanelKind kKind>
inline ScaleMin load_scales(const uint8_t* record) {
  constexpr PanelFormat f = nanovllm::panel_format(kKind);
  ScaleMin s;
  if constexpr (f.half_scales) {
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(record);
    s.scale = load_f16(halves);
    if constexpr (f.has_min) s.min = load_f16(halves + 16);
  } else {
    const float* floats = reinterpret_cast<const float*>(record);
    s.scale = load(floats);
    if constexpr (f.has_min) s.min = load(floats + 16);
  }
  if constexpr (!f.has_min) s.min = mul(s.scale, set1(f.bits == 4 ? -8.0f : -128.0f));
  return s;
}

// Writes `steps` rows of 16 weights from step k0 of a panel to w (room for kLinearSteps rows; whole
// blocks are written). k0 is a multiple of kLinearSteps.
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
    constexpr int kFields = 32 / f.bits;
    const uint8_t* record = panel + k0 / f.block * nanovllm::panel_record_bytes(f);
    for (int64_t k = 0; k < steps; k += f.block, record += nanovllm::panel_record_bytes(f)) {
      const ScaleMin s = load_scales<kKind>(record);
      const uint8_t* quants = record + nanovllm::panel_scale_bytes(f);
      for (int g = 0; g < f.block / kFields; ++g) {
        const U u = load_u32(quants + g * 64);
        float* out = w + (k + g * kFields) * 16;
        NANO_VLLM_UNROLL
        for (int j = 0; j < kFields; ++j)
          store(out + j * 16, fma(field(u, j * f.bits, (1u << f.bits) - 1), s.scale, s.min));
      }
    }
  }
}

// acc[p] += x . W for kPanels neighbouring panels, over all of k. tail: kLinearSteps rows of
// scratch.
template <PanelKind kKind, int kPanels>
inline void one_row(const uint8_t* panels, int64_t panel_bytes, int64_t k_end, const float* x,
                    V* acc_out, float* tail) {
  constexpr PanelFormat f = nanovllm::panel_format(kKind);
  V acc[kPanels];
  for (int p = 0; p < kPanels; ++p) acc[p] = zero();
  int64_t k = 0;
  if constexpr (kKind == PanelKind::kF32) {
    for (; k < k_end; ++k)
      for (int p = 0; p < kPanels; ++p)
        acc[p] = fma(load(reinterpret_cast<const float*>(panels + p * panel_bytes) + k * 16),
                     set1(x[k]), acc[p]);
  } else if constexpr (kKind == PanelKind::kF16) {
    for (; k < k_end; ++k)
      for (int p = 0; p < kPanels; ++p)
        acc[p] = fma(load_f16(reinterpret_cast<const uint16_t*>(panels + p * panel_bytes) + k * 16),
                     set1(x[k]), acc[p]);
  } else if constexpr (kKind == PanelKind::kBF16) {
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
  } else {
    constexpr int kFields = 32 / f.bits;
    const uint8_t* record = panels;
    for (; k + f.block <= k_end; k += f.block, record += nanovllm::panel_record_bytes(f)) {
      ScaleMin s[kPanels];
      for (int p = 0; p < kPanels; ++p) s[p] = load_scales<kKind>(record + p * panel_bytes);
      for (int g = 0; g < f.block / kFields; ++g) {
        const float* xg = x + k + g * kFields;
        NANO_VLLM_UNROLL
        for (int p = 0; p < kPanels; ++p) {
          const U u = load_u32(record + p * panel_bytes + nanovllm::panel_scale_bytes(f) + g * 64);
          NANO_VLLM_UNROLL
          for (int j = 0; j < kFields; ++j) {
            const V w = fma(field(u, j * f.bits, (1u << f.bits) - 1), s[p].scale, s[p].min);
            acc[p] = fma(w, set1(xg[j]), acc[p]);
          }
        }
      }
    }
    for (int p = 0; p < kPanels && k < k_end; ++p) {  // a last, partly used block
      widen<kKind>(record + p * panel_bytes, 0, f.block, tail);
      for (int64_t i = 0; i < k_end - k; ++i)
        acc[p] = fma(load(tail + i * 16), set1(x[k + i]), acc[p]);
    }
  }
  for (int p = 0; p < kPanels; ++p) acc_out[p] = acc[p];
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

template <PanelKind kKind>
void linear_kind(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  const int64_t bytes = nanovllm::panel_bytes(kKind, a.k);
  if (a.rows == 1) {
    V acc[2];
    int64_t p = first;
    for (; p + 2 <= last; p += 2) {
      one_row<kKind, 2>(a.panels + p * bytes, bytes, a.k, a.x, acc, scratch);
      finish(a, p, acc[0], a.out);
      finish(a, p + 1, acc[1], a.out);
    }
    if (p < last) {
      one_row<kKind, 1>(a.panels + p * bytes, bytes, a.k, a.x, acc, scratch);
      finish(a, p, acc[0], a.out);
    }
    return;
  }
  float* w = scratch;
  float* acc = scratch + kLinearSteps * 16;
  for (int64_t row = 0; row < a.rows; row += kLinearRows) {
    const int64_t rows = a.rows - row < kLinearRows ? a.rows - row : kLinearRows;
    for (int64_t p = first; p < last; ++p) {
      for (int64_t k = 0; k < a.k; k += kLinearSteps) {
        const int64_t steps = a.k - k < kLinearSteps ? a.k - k : kLinearSteps;
        widen<kKind>(a.panels + p * bytes, k, steps, w);
        tiles(rows, a.x + row * a.x_stride + k, a.x_stride, w, steps, acc, 16, k > 0);
      }
      for (int64_t r = 0; r < rows; ++r)
        finish(a, p, load(acc + r * 16), a.out + (row + r) * a.out_stride);
    }
  }
}

template <PanelKind kKind>
void dequantize_column_kind(const uint8_t* panel, int column, int64_t k_end, float* out) {
  constexpr PanelFormat f = nanovllm::panel_format(kKind);
  constexpr int kGroup = kKind == PanelKind::kBF16 ? 2 : f.block;
  alignas(64) float w[32 * 16];
  const int64_t stride =
      f.bits ? nanovllm::panel_record_bytes(f) : nanovllm::panel_bytes(kKind, kGroup);
  for (int64_t k = 0; k < k_end; k += kGroup, panel += stride) {
    widen<kKind>(panel, 0, kGroup, w);
    for (int64_t i = 0; i < kGroup && k + i < k_end; ++i) out[k + i] = w[i * 16 + column];
  }
}

void linear(const LinearArgs& a, int64_t first, int64_t last, float* scratch) {
  switch (a.kind) {
    case PanelKind::kF32:
      return linear_kind<PanelKind::kF32>(a, first, last, scratch);
    case PanelKind::kBF16:
      return linear_kind<PanelKind::kBF16>(a, first, last, scratch);
    case PanelKind::kF16:
      return linear_kind<PanelKind::kF16>(a, first, last, scratch);
    case PanelKind::kQ4Half:
      return linear_kind<PanelKind::kQ4Half>(a, first, last, scratch);
    case PanelKind::kQ4HalfMin:
      return linear_kind<PanelKind::kQ4HalfMin>(a, first, last, scratch);
    case PanelKind::kQ4FloatMin:
      return linear_kind<PanelKind::kQ4FloatMin>(a, first, last, scratch);
    case PanelKind::kQ8Half:
      return linear_kind<PanelKind::kQ8Half>(a, first, last, scratch);
    case PanelKind::kQ8HalfMin:
      return linear_kind<PanelKind::kQ8HalfMin>(a, first, last, scratch);
    case PanelKind::kQ8Float:
      return linear_kind<PanelKind::kQ8Float>(a, first, last, scratch);
    case PanelKind::kQ8FloatMin:
      return linear_kind<PanelKind::kQ8FloatMin>(a, first, last, scratch);
    case PanelKind::kQ8Float16:
      return linear_kind<PanelKind::kQ8Float16>(a, first, last, scratch);
  }
}

void dequantize_column(PanelKind kind, const uint8_t* panel, int column, int64_t k, float* out) {
  switch (kind) {
    case PanelKind::kF32:
      return dequantize_column_kind<PanelKind::kF32>(panel, column, k, out);
    case PanelKind::kBF16:
      return dequantize_column_kind<PanelKind::kBF16>(panel, column, k, out);
    case PanelKind::kF16:
      return dequantize_column_kind<PanelKind::kF16>(panel, column, k, out);
    case PanelKind::kQ4Half:
      return dequantize_column_kind<PanelKind::kQ4Half>(panel, column, k, out);
    case PanelKind::kQ4HalfMin:
      return dequantize_column_kind<PanelKind::kQ4HalfMin>(panel, column, k, out);
    case PanelKind::kQ4FloatMin:
      return dequantize_column_kind<PanelKind::kQ4FloatMin>(panel, column, k, out);
    case PanelKind::kQ8Half:
      return dequantize_column_kind<PanelKind::kQ8Half>(panel, column, k, out);
    case PanelKind::kQ8HalfMin:
      return dequantize_column_kind<PanelKind::kQ8HalfMin>(panel, column, k, out);
    case PanelKind::kQ8Float:
      return dequantize_column_kind<PanelKind::kQ8Float>(panel, column, k, out);
    case PanelKind::kQ8FloatMin:
      return dequantize_column_kind<PanelKind::kQ8FloatMin>(panel, column, k, out);
    case PanelKind::kQ8Float16:
      return dequantize_column_kind<PanelKind::kQ8Float16>(panel, column, k, out);
  }
}

}  // namespace
