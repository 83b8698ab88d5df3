#include "backend/cuda/memory.h"

#include <chrono>
#include <thread>

#include "backend/cuda/check.h"

namespace nanovllm::cuda {
namespace {

// Until query() is done. A step of decoding takes a few milliseconds, so this does not sleep.
template <typename Query>
void wait(const Query& query, const std::function<void()>& check_ranks, const char* call) {
  constexpr std::chrono::milliseconds kInterval{1};
  auto next = std::chrono::steady_clock::now() + kInterval;
  for (cudaError_t state; (state = query()) != cudaSuccess;) {
    if (state != cudaErrorNotReady) check(state, call);
    if (const auto now = std::chrono::steady_clock::now(); now > next) {
      check_ranks();
      next = now + kInterval;
    }
    std::this_thread::yield();
  }
}

}  // namespace

DeviceBuffer::DeviceBuffer(int64_t bytes, bool zeroed) {
  if (bytes <= 0) return;
  if (const cudaError_t error = cudaMalloc(&data_, static_cast<size_t>(bytes));
      error != cudaSuccess) {
    cudaGetLastError();  // the error is not for a later call
    data_ = nullptr;
    throw Error("cudaMalloc",
                "of " + std::to_string(bytes) + " bytes: " + cudaGetErrorString(error));
  }
  if (zeroed) {
    cudaError_t error = cudaMemset(data_, 0, static_cast<size_t>(bytes));
    // The streams of a backend do not wait for the default stream.
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    if (error == cudaSuccess) return;
    cudaFree(std::exchange(data_, nullptr));
    check(error, "cudaMemset");
  }
}
DeviceBuffer::~DeviceBuffer() {
  if (data_) cudaFree(data_);
}

PinnedBuffer::PinnedBuffer(int64_t bytes) {
  if (bytes > 0) check(cudaMallocHost(&data_, static_cast<size_t>(bytes)), "cudaMallocHost");
}
PinnedBuffer::~PinnedBuffer() {
  if (data_) cudaFreeHost(data_);
}

Stream::Stream() {
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
}
Stream::~Stream() { cudaStreamDestroy(stream_); }
void Stream::synchronize() const {
  if (check_)
    wait([&] { return cudaStreamQuery(stream_); }, check_, "cudaStreamQuery");
  else
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

Event::Event() {
  check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
}
Event::~Event() { cudaEventDestroy(event_); }
void Event::record(const Stream& stream) {
  check(cudaEventRecord(event_, stream.get()), "cudaEventRecord");
  stream_ = &stream;
}
void Event::synchronize() {
  if (stream_ && stream_->check_)
    wait([&] { return cudaEventQuery(event_); }, stream_->check_, "cudaEventQuery");
  else
    check(cudaEventSynchronize(event_), "cudaEventSynchronize");
}

}  // namespace nanovllm::cuda
