// From a checkpoint's tensors to the tiles of quantized.h, on the host. The quants and scales of
// int8 and int4 are those of the CPU backend (formats/quantize.h).
#pragma once

#include <span>

#include "backend/backend.h"
#include "backend/cuda/quantized.h"
#include "backend/tensor.h"

namespace nanovllm::cuda {

// The format in which `parts` are kept together. GGUF's blocks of 32 stay as they are, exactly, but
// for float32; those of 256 have no format here, and are kPlain.
WeightFormat weight_format(std::span<const TensorView> parts, WeightType type);

// One row of tiles, tile_row_bytes() of them: 16 rows, from `first_row` on, of the matrix that the
// parts are when stacked.
void pack_tile_row(std::span<const TensorView> parts, WeightFormat format, int64_t first_row,
                   std::byte* to);

}  // namespace nanovllm::cuda
