// The kernels for avx2. Compiled with that set's flags (CMakeLists.txt); see kernels.h for what
// must stay out of here.
#include "backend/cpu/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
// The generic code is written in the names of the vector header.
// clang-format off
#include "backend/cpu/vec_avx2.h"
#include "backend/cpu/generic/table.h"
// clang-format on

namespace nanovllm {

const KernelTable* kernels_avx2() {
  static constexpr KernelTable kTable = table("avx2");
  return &kTable;
}

}  // namespace nanovllm
#else
namespace nanovllm {

const KernelTable* kernels_avx2() { return nullptr; }

}  // namespace nanovllm
#endif
