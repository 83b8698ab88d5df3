// Chooses the instruction set at run time.
#pragma once

#include <string>
#include <vector>

#include "backend/cpu/kernels.h"

namespace nanovllm {

// The kernel tables this machine can run, best first; "scalar" is always the last.
std::vector<const KernelTable*> supported_kernels();

// The best one, or the one NANO_VLLM_FORCE_ISA names. Throws Error if that is unknown or this
// machine lacks it.
const KernelTable& choose_kernels();

}  // namespace nanovllm
