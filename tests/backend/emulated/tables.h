// Kernel tables for instruction sets that this machine may lack, built on those that it has
// (avx512.h).
#pragma once

#include <vector>

#include "backend/cpu/kernels.h"

namespace nanovllm {

// Named as the real ones with "-emulated" behind. None on a machine without AVX2.
std::vector<const KernelTable*> emulated_kernels();

}  // namespace nanovllm
