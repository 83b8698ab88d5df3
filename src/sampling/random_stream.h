// RandomStream: uniform numbers that depend on (seed, index, position) alone, so that the draw of
// one token needs no state from one step to the next. splitmix64
// (https://prng.di.unimi.it/splitmix64.c), its start hashed from the three by the same function.
#pragma once

#include <cstdint>

namespace nanovllm {

class RandomStream {
 public:
  constexpr RandomStream(uint64_t seed, int index, int64_t position)
      : state_(
            mix(mix(mix(seed) + static_cast<uint64_t>(index)) + static_cast<uint64_t>(position))) {}

  constexpr double next() {
    return static_cast<double>(mix(state_ += kStep) >> 11) * 0x1p-53;
  }  // [0, 1)

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
  static constexpr uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return x ^ (x >> 31);
  }
  uint64_t state_;
};

}  // namespace nanovllm
