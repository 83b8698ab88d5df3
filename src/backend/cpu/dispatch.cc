#include "backend/cpu/dispatch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

bool has_avx2() {
#if defined(__x86_64__)
  // Clang 14's builtin does not know f16c: leaf 1, bit 29 of ecx.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

// Bits of leaf 7, subleaf 1, of eax, which builtins of older compilers do not know.
[[maybe_unused]] bool has_leaf7_feature(unsigned bit) {
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> bit & 1);
#else
  return static_cast<bool>(bit & 0);
#endif
}

bool has_avxvnni() { return has_avx2() && has_leaf7_feature(4); }

bool has_avx512_bf16() {
#if defined(__x86_64__)
  return has_avx512() && __builtin_cpu_supports("avx512vnni") && has_leaf7_feature(5);
#else
  return false;
#endif
}

}  // namespace

std::vector<const KernelTable*> supported_kernels() {
  std::vector<const KernelTable*> tables;
  if (has_avx512_bf16() && kernels_avx512_bf16()) tables.push_back(kernels_avx512_bf16());
  if (has_avx512() && kernels_avx512()) tables.push_back(kernels_avx512());
  if (has_avxvnni() && kernels_avxvnni()) tables.push_back(kernels_avxvnni());
  if (has_avx2() && kernels_avx2()) tables.push_back(kernels_avx2());
  if (kernels_neon()) tables.push_back(kernels_neon());  // every AArch64 machine has it
  tables.push_back(kernels_scalar());
  return tables;
}

const KernelTable& choose_kernels() {
  const std::vector<const KernelTable*> tables = supported_kernels();
  const char* forced = std::getenv("NANO_VLLM_FORCE_ISA");
  if (!forced || !*forced) return *tables.front();
  std::string names;
  for (const KernelTable* table : tables) {
    if (std::string(table->name) == forced) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  throw InvalidArgument(
      "NANO_VLLM_FORCE_ISA",
      "'" + std::string(forced) + "' cannot run on this machine, which has: " + names);
}

}  // namespace nanovllm
