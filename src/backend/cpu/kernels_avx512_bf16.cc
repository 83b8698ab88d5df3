// The kernels for AVX-512 with VNNI and BF16. Compiled with that set's flags (CMakeLists.txt); see
// kernels.h for what must stay out of here.
#include "backend/cpu/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__) && defined(__AVX512VNNI__) && defined(__AVX512BF16__)
// The generic code is written in the names of the vector header.
// clang-format off
#include "backend/cpu/vec_avx512.h"
#include "backend/cpu/generic/table.h"
// clang-format on

namespace nanovllm {

const KernelTable* kernels_avx512_bf16() {
  static constexpr KernelTable kTable = table("avx512-bf16");
  return &kTable;
}

}  // namespace nanovllm
#else
namespace nanovllm {

const KernelTable* kernels_avx512_bf16() { return nullptr; }

}  // namespace nanovllm
#endif
