// ThreadPool: runs the items of one job on its threads, the caller among them. Owned by one backend
// and called by one thread at a time. A job allocates nothing. If items throw, the others still run
// and the caller gets the first exception.
//
// Items are handed out one by one to whoever is there, so a worker that wakes late or is held up by
// other work costs nothing but the item it holds. Workers spin for 100 microseconds after a job, so
// that the next kernel of a step finds them awake, then sleep: an idle engine uses no processor.
// The caller waits for the last items in the same way. With more threads than processors nobody
// spins.
//
// A pool of as many threads as there are physical cores keeps each worker on a core of its own,
// other than the caller's, until another program wants that core; the calling thread's affinity
// stays as it is. NANO_VLLM_PIN=0 leaves all of it to the system.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

namespace nanovllm {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(item, thread) for every item in 0 .. items - 1 (below 2^31), in no particular order;
  // thread is in 0 .. size() - 1.
  template <typename F>
  void parallel_for(int64_t items, const F& f) {
    run(
        items,
        [](const void* context, int64_t item, int thread) {
          (*static_cast<const F*>(context))(item, thread);
        },
        &f);
  }

 private:
  using Function = void (*)(const void* context, int64_t item, int thread);
  void run(int64_t items, Function function, const void* context);
  void run_items(int thread);
  void work(int thread, const std::vector<int>& core, const std::vector<int>& everywhere);
  void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) const;

  // A job, in one cache line, which is what a waiting worker watches. work_ holds the next item in
  // its high half and the number of items in its low half, so that claiming an item is one addition
  // (which may pass the end). function_ and context_ are written before work_ and read only after a
  // claim; until the claimed item is counted in done_ the job cannot end and they cannot change.
  alignas(64) std::atomic<uint32_t> signal_{0};  // counts jobs
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> work_{0};
  Function function_ = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> done_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;  // of the thread that set failed_
  alignas(64) std::chrono::microseconds spin_{0};
  std::vector<std::thread> workers_;
};

}  // namespace nanovllm
