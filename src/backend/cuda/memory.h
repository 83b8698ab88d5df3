// Memory of the device and pinned memory of the host, owned.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <utility>

namespace nanovllm::cuda {

// `bytes` of the current device's memory, aligned to 256 bytes. Freed on the same thread.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(int64_t bytes, bool zeroed = false);
  DeviceBuffer(DeviceBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceBuffer();
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// Memory of the host that the device copies from and to without the processor.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(int64_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    return *this;
  }
  ~PinnedBuffer();
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

// One order of work for the device. Work that waits for another GPU may never end: who waits for a
// watched stream calls `check` now and then, which throws if there is no use in waiting.
class Stream {
 public:
  Stream();
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t get() const { return stream_; }
  void watch(std::function<void()> check) { check_ = std::move(check); }
  void synchronize() const;

 private:
  friend class Event;
  cudaStream_t stream_ = nullptr;
  std::function<void()> check_;
};

// A place in the order of a stream that the host can wait for. Not recorded yet: it is past. The
// stream outlives it.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(const Stream& stream);
  void synchronize();

 private:
  cudaEvent_t event_ = nullptr;
  const Stream* stream_ = nullptr;
};

}  // namespace nanovllm::cuda
