// src/backend/cuda/ptx.cuh for kernels that run under emulation: the same functions in plain C++,
// from the layouts of fragments that the PTX manual gives.
#pragma once

#include "cuda_bf16.h"
#include "cuda_runtime.h"

namespace nanovllm::cuda {

// Kernels run one after the other.
inline void wait_for_previous_kernel() { emulation::note_wait_for_previous_kernel(); }
inline void let_next_kernel_start() {}

template <typename T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulation::dynamic_shared_memory());
}

inline float exp2(float x) { return std::exp2(x); }
inline uint32_t pack(float low, float high) {
  return __float2bfloat16_rn(low).bits | uint32_t{__float2bfloat16_rn(high).bits} << 16;
}

namespace emulated {

// The two bfloat16 of a register of lane `from`'s fragment, which begins `offset` registers into
// what it handed in.
inline float element(const emulation::Slot* slots, int from, int reg, int half) {
  uint32_t word;
  std::memcpy(&word, slots[from] + 4 * reg, 4);
  return __uint_as_float(half ? word & 0xffff0000u : word << 16);
}

}  // namespace emulated

inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const emulation::Slot* slots = emulation::exchange("mma", mine, sizeof mine);
  const int lane = emulation::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      // a: register 0 and 2 hold the upper rows, 2 and 3 the columns from 8 on. b likewise along k.
      const float x = emulated::element(slots, row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2),
                  y = emulated::element(slots, column * 4 + k % 8 / 2, 4 + k / 8, k % 2);
      d[i] += x * y;
    }
  }
}

namespace emulated {

template <bool transposed>
void load_matrices(uint32_t (&r)[4], const void* row) {
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) emulation::fail("ldmatrix", "of an odd address");
  const emulation::Slot* slots = emulation::exchange("ldmatrix", row, 16);
  const int lane = emulation::lane();
  const auto at = [&](int matrix, int i, int j) {
    uint16_t bits;
    std::memcpy(&bits, slots[matrix * 8 + i] + 2 * j, 2);
    return uint32_t{bits};
  };
  for (int m = 0; m < 4; ++m) {
    const int i = lane / 4, j = lane % 4 * 2;
    r[m] = transposed ? at(m, j, i) | at(m, j + 1, i) << 16 : at(m, i, j) | at(m, i, j + 1) << 16;
  }
}

}  // namespace emulated

inline void load_matrices(uint32_t (&r)[4], const void* row) {
  emulated::load_matrices<false>(r, row);
}
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  emulated::load_matrices<true>(r, row);
}

// Copies happen as late as the hardware may do them: when the thread waits.
inline void start_copy(void* to, const void* from, bool wanted) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0 ||
      (wanted && reinterpret_cast<uintptr_t>(from) % 16 != 0))
    emulation::fail("cp.async", "of an odd address");
  emulation::start_copy(to, wanted ? from : nullptr, 16);
}
inline void end_copy_group() { emulation::end_copy_group(); }
template <int left>
void wait_for_copies() {
  emulation::wait_for_copies(left);
}

}  // namespace nanovllm::cuda
