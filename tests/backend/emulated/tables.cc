#include "backend/emulated/tables.h"

#include <cstring>

#include "backend/cpu/dispatch.h"

namespace nanovllm {

const KernelTable* kernels_avxvnni_emulated();
const KernelTable* kernels_avx512_emulated();
const KernelTable* kernels_avx512_bf16_emulated();

namespace {

[[maybe_unused]] KernelTable renamed(const KernelTable* kernels, const char* name) {
  KernelTable table = *kernels;
  table.name = name;
  return table;
}

}  // namespace

std::vector<const KernelTable*> emulated_kernels() {
  std::vector<const KernelTable*> tables;
  // Under a sanitizer they are not compiled (tests/CMakeLists.txt).
#if defined(__x86_64__) && !defined(NANO_VLLM_SANITIZED)
  static const KernelTable avxvnni = renamed(kernels_avxvnni_emulated(), "avxvnni-emulated");
  static const KernelTable avx512 = renamed(kernels_avx512_emulated(), "avx512-emulated");
  static const KernelTable bf16 = renamed(kernels_avx512_bf16_emulated(), "avx512-bf16-emulated");
  for (const KernelTable* kernels : supported_kernels())
    if (std::strcmp(kernels->name, "avx2") == 0) tables = {&avxvnni, &avx512, &bf16};
#endif
  return tables;
}

}  // namespace nanovllm
