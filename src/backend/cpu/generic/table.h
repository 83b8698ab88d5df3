// All kernels of the instruction set whose vec_*.h was included before.
#pragma once

#include "backend/cpu/generic/attention.h"
#include "backend/cpu/generic/linear.h"
#include "backend/cpu/generic/rows.h"
#include "backend/cpu/generic/vocabulary.h"

namespace {

constexpr nanovllm::KernelTable table(const char* name) {
  return {.name = name,
          .has_pairs = kHasPairs,
          .tile_rows = kTileRows,
          .byte_tile_rows = kByteTileRows,
          .prepare = prepare,
          .linear = linear,
          .dequantize_column = dequantize_column,
          .rms_norm = rms_norm,
          .silu_mul = silu_mul,
          .rope_and_store = rope_and_store,
          .attention = attention,
          .attention_merge = attention_merge,
          .block_maxima = block_maxima,
          .weights = weights,
          .block_sums = block_sums};
}

}  // namespace
