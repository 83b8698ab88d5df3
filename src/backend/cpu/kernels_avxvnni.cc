// The kernels for AVX2 with VNNI. Compiled with that set's flags (CMakeLists.txt); see kernels.h
// for what must stay out of here.
#include "backend/cpu/kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__AVXVNNI__)
// The generic code is written in the names of the vector header.
// clang-format off
#include "backend/cpu/vec_avx2.h"
#include "backend/cpu/generic/table.h"
// clang-format on

namespace nanovllm {

const KernelTable* kernels_avxvnni() {
  static constexpr KernelTable kTable = table("avxvnni");
  return &kTable;
}

}  // namespace nanovllm
#else
namespace nanovllm {

const KernelTable* kernels_avxvnni() { return nullptr; }

}  // namespace nanovllm
#endif
