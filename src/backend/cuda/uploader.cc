#include "backend/cuda/uploader.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "backend/cuda/check.h"
#include "backend/cuda/pack_quantized.h"
#include "formats/quantization.h"

namespace nanovllm::cuda {
namespace {

constexpr int64_t kBufferBytes = 8 << 20;
// Below this a thread costs more than it does.
constexpr int64_t kSerialBytes = 1 << 18;

// f(first, count) over pieces of `n` elements of so many bytes, on several threads. Pieces begin at
// multiples of `granularity`.
void share(int64_t n, int64_t granularity, int64_t bytes_per_element,
           const std::function<void(int64_t, int64_t)>& f) {
  const int64_t threads = std::clamp<int64_t>(
      std::min<int64_t>(n * bytes_per_element / kSerialBytes, std::thread::hardware_concurrency()),
      1, 16);
  const int64_t step = (n / granularity + threads - 1) / threads * granularity;
  std::vector<std::thread> others;
  for (int64_t first = step; first < n; first += step)
    others.emplace_back(f, first, std::min(step, n - first));
  f(0, std::min(step, n));
  for (std::thread& t : others) t.join();
}

}  // namespace

void Uploader::run(int64_t elements, int64_t granularity, int64_t bytes_per_element,
                   const Fill& fill, std::byte* out) {
  if (!allocated_)
    for (PinnedBuffer& b : buffers_) b = PinnedBuffer(kBufferBytes);
  allocated_ = true;
  const int64_t step = kBufferBytes / bytes_per_element / granularity * granularity;
  for (int64_t first = 0; first < elements; first += step) {
    const int64_t count = std::min(step, elements - first);
    next_ ^= 1;
    copied_[next_].synchronize();
    auto* const buffer = buffers_[next_].as<std::byte>();
    share(count, granularity, bytes_per_element, [&](int64_t begin, int64_t n) {
      fill(first + begin, n, buffer + begin * bytes_per_element);
    });
    check(cudaMemcpyAsync(out + first * bytes_per_element, buffer,
                          static_cast<size_t>(count * bytes_per_element), cudaMemcpyHostToDevice,
                          stream_.get()),
          "cudaMemcpyAsync");
    copied_[next_].record(stream_);
  }
}

void Uploader::upload(const TensorView& tensor, Element type, void* out) {
  const int64_t granularity = dtype_block_elements(tensor.dtype);
  const bool narrow = type == Element::kBFloat16;
  // Elements that lie together in the file.
  const auto fill_from = [&](const std::byte* source, int64_t count, std::byte* to) {
    if (narrow && tensor.dtype == DType::kBF16) {
      std::memcpy(to, source, static_cast<size_t>(count) * 2);
    } else if (!narrow) {
      dequantize_row(tensor.dtype, source, reinterpret_cast<float*>(to), count);
    } else {
      constexpr int64_t kPiece = 1024;  // a multiple of every block
      float values[kPiece];
      auto* narrowed = reinterpret_cast<uint16_t*>(to);
      for (int64_t i = 0; i < count; i += kPiece) {
        const int64_t n = std::min(kPiece, count - i);
        dequantize_row(tensor.dtype, source + dtype_row_bytes(tensor.dtype, i), values, n);
        for (int64_t j = 0; j < n; ++j) narrowed[i + j] = float_to_bfloat16(values[j]);
      }
    }
  };
  // The rows of a slice lie apart.
  const int64_t together = tensor.row_stride == 0 ? tensor.num_elements() : tensor.shape.back();
  const Fill fill = [&](int64_t first, int64_t count, std::byte* to) {
    for (int64_t done = 0; done < count;) {
      const int64_t row = (first + done) / together, column = (first + done) % together;
      const int64_t n = std::min(count - done, together - column);
      fill_from(tensor.data.data() + row * tensor.stride() + dtype_row_bytes(tensor.dtype, column),
                n, to + done * element_bytes(type));
      done += n;
    }
  };
  run(tensor.num_elements(), granularity, element_bytes(type), fill, static_cast<std::byte*>(out));
}

void Uploader::upload(std::span<const float> values, float* out) {
  run(
      std::ssize(values), 1, 4,
      [&](int64_t first, int64_t count, std::byte* to) {
        std::memcpy(to, values.data() + first, static_cast<size_t>(count) * 4);
      },
      reinterpret_cast<std::byte*>(out));
}

void Uploader::upload_quantized(std::span<const TensorView> parts, const QuantizedMatrix& m,
                                std::byte* out) {
  const int64_t bytes = tile_row_bytes(m.format, m.in_features);  // of an element here: 16 rows
  if (bytes > kBufferBytes)
    throw Error("tensor '" + parts.front().name + "'", "has rows that are too long to quantize");
  run(
      tiles_along(m.out_features, kTileRows), 1, bytes,
      [&](int64_t first, int64_t count, std::byte* to) {
        for (int64_t i = 0; i < count; ++i)
          pack_tile_row(parts, m.format, (first + i) * kTileRows, to + i * bytes);
      },
      out);
}

void Uploader::finish() {
  for (Event& e : copied_) e.synchronize();
  for (PinnedBuffer& b : buffers_) b = PinnedBuffer();
  allocated_ = false;
}

}  // namespace nanovllm::cuda
