// How a buffer that all ranks sum is divided among them, and the sum itself, which every transport
// on the processor makes in the same order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace nanovllm {

struct Slice {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

// The part of n floats that rank r of `size` sums: whole cache lines, so that no two ranks write to
// the same one; the last ranks' may be empty.
inline Slice sum_slice(int64_t n, int rank, int size) {
  constexpr int64_t kLine = 16;
  const int64_t lines = (n + kLine - 1) / kLine, each = (lines + size - 1) / size * kLine;
  return {std::min(n, rank * each), std::min(n, (rank + 1) * each)};
}

// out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ...; out may be one of the parts.
void sum_in_order(std::span<const float* const> parts, int64_t n, float* out);

}  // namespace nanovllm
