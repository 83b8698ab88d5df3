// Memory of the device that is free between two calls of the backend: what a call puts there it has
// read, in the order of the stream, before the next one's kernels begin.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nanovllm::cuda {

struct Scratch {
  static constexpr int64_t kBytes = 32 << 20;  // an H100's second-level cache has 50 MB
  std::byte* data = nullptr;
  int64_t bytes = 0;
};

}  // namespace nanovllm::cuda
