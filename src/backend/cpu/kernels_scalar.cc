// The kernels for scalar. Compiled with that set's flags (CMakeLists.txt); see kernels.h for what
// must stay out of here.
// The generic code is written in the names of the vector header.
// clang-format off
#include "backend/cpu/vec_scalar.h"
#include "backend/cpu/generic/attention.h"
#include "backend/cpu/generic/linear.h"
#include "backend/cpu/generic/rows.h"
#include "backend/cpu/generic/vocabulary.h"
// clang-format on

namespace nanovllm {

const KernelTable* kernels_scalar() {
  static constexpr KernelTable kTable = {
      "scalar",  linear,          dequantize_column, rms_norm, silu_mul,  rope_and_store,
      attention, attention_merge, block_maxima,      weights,  block_sums};
  return &kTable;
}

}  // namespace nanovllm
