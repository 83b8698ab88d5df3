#include "backend/emulated/tables.h"

#include <cstring>

#include "backend/cpu/dispatch.h"

namespace nanovllm {

const KernelTable* kernels_avx512_emulated();

std::vector<const KernelTable*> emulated_kernels() {
  std::vector<const KernelTable*> tables;
#if defined(__x86_64__)
  static const KernelTable avx512 = [] {
    KernelTable table = *kernels_avx512_emulated();
    table.name = "avx512-emulated";
    return table;
  }();
  for (const KernelTable* kernels : supported_kernels())
    if (std::strcmp(kernels->name, "avx2") == 0) tables = {&avx512};
#endif
  return tables;
}

}  // namespace nanovllm
