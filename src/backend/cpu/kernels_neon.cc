// The kernels for neon. Compiled with that set's flags (CMakeLists.txt); see kernels.h for what
// must stay out of here.
#include "backend/cpu/kernels.h"

#if defined(__aarch64__)
// The generic code is written in the names of the vector header.
// clang-format off
#include "backend/cpu/vec_neon.h"
#include "backend/cpu/generic/table.h"
// clang-format on

namespace nanovllm {

const KernelTable* kernels_neon() {
  static constexpr KernelTable kTable = table("neon");
  return &kTable;
}

}  // namespace nanovllm
#else
namespace nanovllm {

const KernelTable* kernels_neon() { return nullptr; }

}  // namespace nanovllm
#endif
