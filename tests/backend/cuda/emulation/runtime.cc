// The runtime behind include/cuda_runtime.h: device memory between guard pages, streams that do
// their work when somebody waits, captured streams that keep it.
//
// Work may wait for that of another stream (nccl.cc). Then whoever waits does what it can of all
// streams, and lets other threads enqueue what is missing.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cuda_runtime.h"

using Work = std::function<bool()>;  // whether it is done

struct CUstream_st {
  int device = 0;
  std::deque<Work> queue;
  uint64_t enqueued = 0, done = 0;
  bool capturing = false, broken = false;
  std::thread::id capturer;
  std::vector<Work> captured;
};
struct CUevent_st {
  cudaStream_t stream = nullptr;
  uint64_t at = 0;  // work of the stream before it
};
struct CUgraph_st {
  std::vector<Work> nodes;
};
struct CUgraphExec_st {
  std::vector<Work> nodes;
};

namespace {
thread_local int current_device = 0;
constexpr int kDevices = 4;
}  // namespace

namespace emulation {
namespace {

// One allocation: the last byte that may be touched lies just before a page without access, and the
// first one a page behind another, so that a kernel that reads or writes past its end faults. The
// few bytes that alignment leaves hold a pattern, which is looked at when the memory is freed.
struct Allocation {
  char* map;
  size_t map_bytes, bytes, padded;
};
constexpr size_t kAlignment = 64;
constexpr char kCanary = 0x5a;

struct Device {
  std::map<char*, Allocation> memory, pinned;  // by the first byte
  std::vector<std::unique_ptr<CUstream_st>> streams;
  std::map<const void*, int> shared_limits;
  Counters counters;
  bool protect = false;
  int open = 0;
};

Device& device() {
  static auto* d = new Device;  // lives as long as anybody may free something
  return *d;
}

// While one lives, the device's memory can be touched.
class Open {
 public:
  Open() {
    if (device().open++ == 0) set(PROT_READ | PROT_WRITE);
  }
  ~Open() {
    if (--device().open == 0) set(PROT_NONE);
  }

 private:
  static void set(int protection) {
    if (!device().protect) return;
    for (auto& [first, a] : device().memory)
      mprotect(a.map + getpagesize(), a.map_bytes - 2 * getpagesize(), protection);
  }
};

const Allocation* find(const std::map<char*, Allocation>& all, const void* p, size_t bytes) {
  auto* first = const_cast<char*>(static_cast<const char*>(p));
  auto it = all.upper_bound(first);
  if (it == all.begin()) return nullptr;
  --it;
  return first + bytes <= it->first + it->second.bytes ? &it->second : nullptr;
}

// False: what comes next waits for other streams.
bool drain(CUstream_st& s, uint64_t until) {
  const Open open;
  while (s.done < until) {
    Work work = std::move(s.queue.front());
    s.queue.pop_front();
    ++s.done;
    if (work()) continue;
    s.queue.push_front(std::move(work));
    --s.done;
    return false;
  }
  return true;
}

// What can be done at once, of other streams only if that is needed.
bool try_drain(CUstream_st& s, uint64_t until) {
  if (drain(s, until)) return true;
  for (bool progress = true; progress;) {
    progress = false;
    for (auto& other : device().streams) {
      const uint64_t before = other->done;
      drain(*other, other->enqueued);
      progress |= other->done != before;
    }
  }
  return s.done >= until;
}

using Guard = std::unique_lock<std::recursive_mutex>;

void wait_for(Guard& guard, CUstream_st& s, uint64_t until) {
  while (!try_drain(s, until)) {
    guard.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(50));
    guard.lock();
  }
}

// All streams of the calling thread's device.
void wait_for_device(Guard& guard) {
  const auto busy = [] {
    for (auto& s : device().streams)
      if (s->device == current_device && s->done < s->enqueued) return s.get();
    return static_cast<CUstream_st*>(nullptr);
  };
  while (CUstream_st* const s = busy()) wait_for(guard, *s, s->enqueued);
}

// A call that a capture by the same thread does not survive.
cudaError_t refuse_in_capture() {
  cudaError_t error = cudaSuccess;
  for (auto& s : device().streams) {
    if (!s->capturing || s->capturer != std::this_thread::get_id()) continue;
    s->broken = true;
    error = cudaErrorStreamCaptureUnsupported;
  }
  return error;
}

cudaError_t copy_now(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Open open;
  const bool to_device = kind != cudaMemcpyDeviceToHost,
             from_device = kind != cudaMemcpyHostToDevice;
  if (to_device != (find(device().memory, to, bytes) != nullptr) ||
      from_device != (find(device().memory, from, bytes) != nullptr))
    fail("cudaMemcpy", "between other memory than its kind says");
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

}  // namespace

Counters& counters() { return device().counters; }

// Threads share the devices; kernels of one run while others wait.
std::recursive_mutex& lock() {
  static auto* m = new std::recursive_mutex;
  return *m;
}

void protect_device_memory(bool on) {
  const std::lock_guard guard(lock());
  Device& d = device();
  d.protect = true;
  const Open open;  // sets it one way now and the other when it ends
  d.protect = on;
}

cudaError_t allow_shared_memory(const void* kernel, int bytes) {
  const std::lock_guard guard(lock());
  if (bytes > 227 * 1024) return cudaErrorInvalidValue;  // compute capability 9.0
  device().shared_limits[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t enqueue_until(cudaStream_t stream, Work work) {
  const std::lock_guard guard(lock());
  if (stream == nullptr) fail("the default stream", "is not for the backend");
  if (stream->device != current_device) return cudaErrorInvalidResourceHandle;
  if (stream->capturing) {
    stream->captured.push_back(std::move(work));
  } else {
    stream->queue.push_back(std::move(work));
    ++stream->enqueued;
  }
  return cudaSuccess;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  return enqueue_until(stream, [work = std::move(work)] {
    work();
    return true;
  });
}

cudaError_t launch(const cudaLaunchConfig_t& c, const void* kernel, std::function<void()> thread) {
  const std::lock_guard guard(lock());
  const auto& limits = device().shared_limits;
  const auto limit = limits.find(kernel);
  const size_t shared = limit == limits.end() ? 48 * 1024 : static_cast<size_t>(limit->second);
  const dim3 grid = c.gridDim, block = c.blockDim;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
      grid.z > 65535 || c.dynamicSmemBytes > std::max<size_t>(shared, 48 * 1024))
    return cudaErrorInvalidConfiguration;
  return enqueue(c.stream, [grid, block, bytes = c.dynamicSmemBytes, overlaps = c.numAttrs > 0,
                            thread = std::move(thread)] {
    ++counters().launches;
    run_grid(grid, block, bytes, overlaps, thread);
  });
}

}  // namespace emulation

using emulation::device;

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaError";
}
const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    case cudaErrorInvalidResourceHandle:
      return "invalid resource handle";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    default:
      return "invalid argument";
  }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int index) {
  if (index < 0 || index >= kDevices) return cudaErrorInvalidDevice;
  current_device = index;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* index) {
  *index = current_device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount      ? 4
           : attribute == cudaDevAttrComputeCapabilityMajor ? 9
                                                            : 0;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"Emulated GPU", 9, 0, 4, size_t{1} << 34, 227 * 1024};
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  const std::lock_guard guard(emulation::lock());
  *total = size_t{1} << 34;
  *free = *total - (static_cast<size_t>(current_device) << 22);  // no two have the same
  for (const auto& [first, a] : device().memory) *free -= a.bytes;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  emulation::Guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  emulation::wait_for_device(guard);
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const std::lock_guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  const auto page = static_cast<size_t>(getpagesize());
  const size_t padded =
      std::max<size_t>(1, (bytes + emulation::kAlignment - 1) / emulation::kAlignment) *
      emulation::kAlignment;
  const size_t map_bytes = (padded + page - 1) / page * page + 2 * page;
  if (padded > size_t{1} << 34) return cudaErrorMemoryAllocation;
  void* map = mmap(nullptr, map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) return cudaErrorMemoryAllocation;
  auto* base = static_cast<char*>(map);
  mprotect(base + page, map_bytes - 2 * page, PROT_READ | PROT_WRITE);
  char* first = base + map_bytes - page - padded;
  std::memset(first, 0xff, bytes);  // not a number
  std::memset(first + bytes, emulation::kCanary, padded - bytes);
  const emulation::Open open;
  device().memory[first] = {base, map_bytes, bytes, padded};
  ++device().counters.allocations;
  *pointer = first;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  emulation::Guard guard(emulation::lock());
  if (pointer == nullptr) return cudaSuccess;
  emulation::wait_for_device(guard);
  const emulation::Open open;
  const auto it = device().memory.find(static_cast<char*>(pointer));
  if (it == device().memory.end()) emulation::fail("cudaFree", "of what is not allocated");
  const auto a = it->second;
  for (size_t i = a.bytes; i < a.padded; ++i)
    if (it->first[i] != emulation::kCanary) emulation::fail("a kernel", "wrote past the end");
  munmap(a.map, a.map_bytes);
  device().memory.erase(it);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  const std::lock_guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  auto* p = static_cast<char*>(std::aligned_alloc(64, (bytes + 64) / 64 * 64));
  device().pinned[p] = {p, 0, bytes, bytes};
  ++device().counters.allocations;
  *pointer = p;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  emulation::Guard guard(emulation::lock());
  emulation::wait_for_device(guard);
  device().pinned.erase(static_cast<char*>(pointer));
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  emulation::Guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  emulation::wait_for_device(guard);
  return emulation::copy_now(to, from, bytes, kind);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const std::lock_guard guard(emulation::lock());
  // From and to pageable memory CUDA copies by way of a buffer and waits, which no step should.
  const void* host = kind == cudaMemcpyHostToDevice   ? from
                     : kind == cudaMemcpyDeviceToHost ? to
                                                      : nullptr;
  if (host && !emulation::find(device().pinned, host, bytes))
    emulation::fail("cudaMemcpyAsync", "of memory that is not pinned");
  return emulation::enqueue(stream, [=] {
    ++emulation::counters().copies;
    emulation::copy_now(to, from, bytes, kind);
  });
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  if (width > to_pitch || width > from_pitch) return cudaErrorInvalidValue;
  return emulation::enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row)
      emulation::copy_now(static_cast<char*>(to) + row * to_pitch,
                          static_cast<const char*>(from) + row * from_pitch, width, kind);
  });
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  emulation::Guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  emulation::wait_for_device(guard);
  const emulation::Open open;
  if (!emulation::find(device().memory, to, bytes)) emulation::fail("cudaMemset", "elsewhere");
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const std::lock_guard guard(emulation::lock());
  if (!emulation::find(device().memory, to, bytes)) emulation::fail("cudaMemsetAsync", "elsewhere");
  return emulation::enqueue(stream, [=] { std::memset(to, value, bytes); });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const std::lock_guard guard(emulation::lock());
  *stream = device().streams.emplace_back(std::make_unique<CUstream_st>()).get();
  (*stream)->device = current_device;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  emulation::Guard guard(emulation::lock());
  emulation::wait_for(guard, *stream, stream->enqueued);
  std::erase_if(device().streams, [&](const auto& s) { return s.get() == stream; });
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  emulation::Guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  emulation::wait_for(guard, *stream, stream->enqueued);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const std::lock_guard guard(emulation::lock());
  if (const auto error = emulation::refuse_in_capture(); error != cudaSuccess) return error;
  return emulation::try_drain(*stream, stream->enqueued) ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const std::lock_guard guard(emulation::lock());
  *event = {stream, stream->enqueued};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  emulation::Guard guard(emulation::lock());
  if (event->stream) emulation::wait_for(guard, *event->stream, event->at);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const std::lock_guard guard(emulation::lock());
  if (!event->stream || emulation::try_drain(*event->stream, event->at)) return cudaSuccess;
  return cudaErrorNotReady;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const std::lock_guard guard(emulation::lock());
  if (stream->capturing) return cudaErrorStreamCaptureUnsupported;
  stream->capturing = true;
  stream->capturer = std::this_thread::get_id();
  stream->broken = false;
  stream->captured.clear();
  ++device().counters.captures;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::lock_guard guard(emulation::lock());
  stream->capturing = false;
  *graph = nullptr;
  if (stream->broken) return cudaErrorStreamCaptureUnsupported;
  *graph = new CUgraph_st{std::move(stream->captured)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (const auto error = emulation::enqueue(stream, [] { ++emulation::counters().graph_launches; });
      error != cudaSuccess)
    return error;
  for (const Work& node : exec->nodes) emulation::enqueue_until(stream, node);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
// One that runs is freed when it has ended: the stream has its nodes.
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const std::lock_guard guard(emulation::lock());
  delete exec;
  return cudaSuccess;
}
