// What the CPU backend's tests share: backends on every instruction set of this machine.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "backend/cpu/cpu_backend.h"
#include "backend/cpu/dispatch.h"
#include "backend/emulated/tables.h"
#include "backend/random_tensor.h"
#include "formats/quantization.h"

namespace nanovllm {

// Under an emulator or a sanitizer everything takes ten to forty times as long: the largest tests
// take fewer cases there.
#ifdef NANO_VLLM_FEW_CASES
inline constexpr bool kFewCases = true;
#else
inline constexpr bool kFewCases = false;
#endif

// Every instruction set of this machine, best first, then the emulated ones.
inline std::vector<const KernelTable*> all_kernels() {
  std::vector<const KernelTable*> tables = supported_kernels();
  for (const KernelTable* kernels : emulated_kernels()) tables.push_back(kernels);
  return tables;
}

inline std::vector<float> run_linear(Backend& backend, const Weight& w, const std::vector<float>& x,
                                     int64_t rows, const float* bias) {
  std::vector<float> out(static_cast<size_t>(rows * w.out_features), NAN);
  backend.linear(w, bias, x.data(), rows, out.data());
  return out;
}

}  // namespace nanovllm
