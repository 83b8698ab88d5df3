#include "parallel/slices.h"

namespace nanovllm {

void sum_in_order(std::span<const float* const> parts, int64_t n, float* out) {
  constexpr int64_t kBlock = 512;  // two kilobytes of sums, which stay in the first-level cache
  float sums[kBlock];
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t count = std::min(kBlock, n - first);
    std::copy_n(parts[0] + first, count, sums);
    for (const float* part : parts.subspan(1))
      for (int64_t i = 0; i < count; ++i) sums[i] += part[first + i];
    std::copy_n(sums, count, out + first);
  }
}

}  // namespace nanovllm
