// Uploader: weights and constants from the host's memory to the device's while loading, converted
// on the way. Two pinned buffers take turns, so that one is filled by the processor's threads while
// the other travels.
//
// Belongs to one backend and its thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "backend/cuda/kernels.h"
#include "backend/cuda/memory.h"
#include "backend/tensor.h"

namespace nanovllm::cuda {

class Uploader {
 public:
  explicit Uploader(const Stream& stream) : stream_(stream) {}

  // The rows of `tensor` (any DType), as `type`, to `out` [rows, columns].
  void upload(const TensorView& tensor, Element type, void* out);
  void upload(std::span<const float> values, float* out);
  // The matrix that `parts` are when stacked, quantized (pack_quantized.h), to out.
  void upload_quantized(std::span<const TensorView> parts, const QuantizedMatrix& matrix,
                        std::byte* out);
  // When all has arrived: gives the buffers back.
  void finish();

 private:
  // fill(first, count, to): writes elements first .. first + count - 1, as bytes of the device's
  // type.
  using Fill = std::function<void(int64_t, int64_t, std::byte*)>;
  void run(int64_t elements, int64_t granularity, int64_t bytes_per_element, const Fill& fill,
           std::byte* out);

  const Stream& stream_;
  PinnedBuffer buffers_[2];
  Event copied_[2];
  bool allocated_ = false;
  int next_ = 0;
};

}  // namespace nanovllm::cuda
