// The kernels for scalar. Compiled with that set's flags (CMakeLists.txt); see kernels.h for what
// must stay out of here.
// The generic code is written in the names of the vector header.
// clang-format off
#include "backend/cpu/vec_scalar.h"
#include "backend/cpu/generic/table.h"
// clang-format on

namespace nanovllm {

const KernelTable* kernels_scalar() {
  static constexpr KernelTable kTable = table("scalar");
  return &kTable;
}

}  // namespace nanovllm
