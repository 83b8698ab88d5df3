// How a packed weight lies in memory. Shared by the packer and by the kernels of every instruction
// set, so this header stays free of the standard library (see kernels.h).
//
// A matrix [out_features, in_features] is cut into panels of 16 output columns; inside a panel the
// input dimension K runs slowest, so that one pass over K reads the panel from front to back:
//
//   F32     [K][16] float
//   F16     [K][16] uint16
//   BF16    [K/2][16] uint32: k in the low half, k + 1 in the high half, so that widening is one
//           shift or one mask, and a pair is what a bfloat16 dot product takes
//   Q*      records of 32 steps of K, or of 256 for GGUF's super-blocks:
//             scales        { scale[16], min[16] if stored }, IEEE half
//             super-blocks  { scale[16], min[16] if stored }, IEEE half, then for each group
//                           uint8[16] that multiply the scale, then uint8[16] for the min
//             quants        for each 32 steps [8][16][4] bytes: four steps of K for each column,
//             what
//                           a dot product of bytes takes. 4 bits: the even fours in the low halves,
//                           the odd ones in the high halves of [4][16][4] bytes. 6 bits: the low
//                           four so, then two high bits of four fours in each of [2][16][4] bytes.
//
// A quantized weight is fma(q, scale, min) with q unsigned. Without a stored min it is -centre *
// scale, which makes fma(q, scale, min) the exact value of (q - centre) * scale. Columns past the
// end are zero, steps past the end of K have quants of any value: activations there are zero.
#pragma once

#include <stdint.h>

namespace nanovllm {

static constexpr int kPanelColumns = 16;
static constexpr int kQuantGroup = 32;   // steps of K whose activations share a scale
static constexpr int kSuperBlock = 256;  // steps of K of a GGUF super-block

enum class PanelKind : uint8_t {
  kF32,
  kBF16,
  kF16,
  kQ4,         // GGUF Q4_0, --quantization int4
  kQ4Min,      // GGUF Q4_1
  kQ4Super,    // GGUF Q4_K
  kQ6,         // GGUF Q5_0
  kQ6Min,      // GGUF Q5_1
  kQ6Super,    // GGUF Q5_K
  kQ6Super16,  // GGUF Q6_K
  kQ8,         // GGUF Q8_0
  kQ8Min,      // --quantization int8; quants up to kQ8MinLargest
};

struct PanelFormat {
  int bits;    // of a quant, 0 for the float kinds
  int group;   // steps of K that share a scale
  int centre;  // the quant that stands for zero; -1 where a min is stored
  bool super;  // scales are products of a super-block's and a group's

  constexpr bool has_min() const { return centre < 0; }
};

static constexpr PanelFormat panel_format(PanelKind kind) {
  switch (kind) {
    case PanelKind::kQ4:
      return {4, 32, 8, false};
    case PanelKind::kQ4Min:
      return {4, 32, -1, false};
    case PanelKind::kQ4Super:
      return {4, 32, -1, true};
    case PanelKind::kQ6:
      return {6, 32, 16, false};
    case PanelKind::kQ6Min:
      return {6, 32, -1, false};
    case PanelKind::kQ6Super:
      return {6, 32, -1, true};
    case PanelKind::kQ6Super16:
      return {6, 16, 32, true};
    case PanelKind::kQ8:
      return {8, 32, 128, false};
    case PanelKind::kQ8Min:
      return {8, 32, -1, false};
    default:
      return {0, 1, 0, false};
  }
}

// AVX2's byte product adds two products in 16 bits with a sign: a quant of 8 bits times the sum of
// two neighbouring activations' magnitudes must stay below 2^15. Fewer levels for the weights leave
// more for the activations; 180 divides the error about evenly between them.
static constexpr int kQ8MinLargest = 180;
// Of quants below 16 eight such sums fit.
static constexpr int most_neighbours(PanelKind kind) {
  if (panel_format(kind).bits == 4) return 32767 / (8 * 15);
  return kind == PanelKind::kQ8Min ? 32767 / kQ8MinLargest : 32767 / 255;
}

// A record: its steps of K, the bytes of the scales at its head, of 32 steps of quants, of it all.
static constexpr int64_t record_steps(PanelFormat f) { return f.super ? kSuperBlock : kQuantGroup; }
static constexpr int64_t record_scale_bytes(PanelFormat f) {
  const int64_t vectors = f.has_min() ? 2 : 1;
  return vectors * kPanelColumns * (2 + (f.super ? kSuperBlock / f.group : 0));
}
static constexpr int64_t group_quant_bytes(PanelFormat f) {
  return int64_t{kPanelColumns} * kQuantGroup * f.bits / 8;
}
static constexpr int64_t record_bytes(PanelFormat f) {
  return record_scale_bytes(f) + record_steps(f) / kQuantGroup * group_quant_bytes(f);
}

// Bytes of one panel of 16 columns over k input features.
static constexpr int64_t panel_bytes(PanelKind kind, int64_t k) {
  if (kind == PanelKind::kF32) return k * kPanelColumns * 4;
  if (kind == PanelKind::kF16) return k * kPanelColumns * 2;
  if (kind == PanelKind::kBF16) return (k + 1) / 2 * kPanelColumns * 4;
  const PanelFormat f = panel_format(kind);
  return (k + record_steps(f) - 1) / record_steps(f) * record_bytes(f);
}

}  // namespace nanovllm
