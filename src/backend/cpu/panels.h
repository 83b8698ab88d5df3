// How a packed weight lies in memory. Shared by the packer and by the kernels of every instruction
// set, so this header stays free of the standard library (see kernels.h).
//
// A matrix [out_features, in_features] is cut into panels of 16 output columns; inside a panel the
// input dimension K runs slowest, so that one pass over K reads the panel from front to back:
//
//   F32     [K][16] float
//   F16     [K][16] uint16
//   BF16    [K/2][16] uint32: k in the low half, k + 1 in the high half, so that widening is one
//   shift or one mask Q4, Q8  [K/block] records of { scale[16], min[16] if stored, quants [16 *
//   block] }; quants are [block/8][16] uint32 of
//           eight 4-bit fields or [block/4][16] uint32 of four 8-bit fields, the smallest k in the
//           lowest bits
//
// A quantized weight is fma(q, scale, min) with q unsigned. Without a stored min it is -centre *
// scale (centre 8 or 128), which makes fma(q, scale, min) the exact value of (q - centre) * scale.
// Columns past the end are zero.
#pragma once

#include <stdint.h>

namespace nanovllm {

static constexpr int kPanelColumns = 16;

enum class PanelKind : uint8_t {
  kF32,
  kBF16,
  kF16,
  kQ4Half,      // half scale, centre 8:     GGUF Q4_0
  kQ4HalfMin,   // half scale and min:       GGUF Q4_1
  kQ4FloatMin,  // float scale and min:      GGUF Q4_K, --quantization int4
  kQ8Half,      // half scale, centre 128:   GGUF Q8_0, Q5_0
  kQ8HalfMin,   // half scale and min:       GGUF Q5_1
  kQ8Float,     // float scale, centre 128:  --quantization int8
  kQ8FloatMin,  // float scale and min:      GGUF Q5_K
  kQ8Float16,   // kQ8Float in blocks of 16: GGUF Q6_K
};

struct PanelFormat {
  int bits;          // of a quant, 0 for the float kinds
  int block;         // K steps that share a scale; 1 for the float kinds
  bool half_scales;  // scales and mins are IEEE half, else float
  bool has_min;
};

static constexpr PanelFormat panel_format(PanelKind kind) {
  switch (kind) {
    case PanelKind::kQ4Half:
      return {4, 32, true, false};
    case PanelKind::kQ4HalfMin:
      return {4, 32, true, true};
    case PanelKind::kQ4FloatMin:
      return {4, 32, false, true};
    case PanelKind::kQ8Half:
      return {8, 32, true, false};
    case PanelKind::kQ8HalfMin:
      return {8, 32, true, true};
    case PanelKind::kQ8Float:
      return {8, 32, false, false};
    case PanelKind::kQ8FloatMin:
      return {8, 32, false, true};
    case PanelKind::kQ8Float16:
      return {8, 16, false, false};
    default:
      return {0, 1, false, false};
  }
}

// Bytes of the scales (and mins) at the head of a record, and of a whole record.
static constexpr int64_t panel_scale_bytes(PanelFormat f) {
  return int64_t{kPanelColumns} * (f.half_scales ? 2 : 4) * (f.has_min ? 2 : 1);
}
static constexpr int64_t panel_record_bytes(PanelFormat f) {
  return panel_scale_bytes(f) + int64_t{kPanelColumns} * f.block * f.bits / 8;
}

// Bytes of one panel of 16 columns over k input features.
static constexpr int64_t panel_bytes(PanelKind kind, int64_t k) {
  if (kind == PanelKind::kF32) return k * kPanelColumns * 4;
  if (kind == PanelKind::kF16) return k * kPanelColumns * 2;
  if (kind == PanelKind::kBF16) return (k + 1) / 2 * kPanelColumns * 4;
  const PanelFormat f = panel_format(kind);
  return (k + f.block - 1) / f.block * panel_record_bytes(f);
}

}  // namespace nanovllm
