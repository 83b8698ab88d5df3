// ThreadPool: runs the items of one job on its threads, the caller among them. Owned by one backend
// and called by one thread at a time. Workers spin for some 50 microseconds after a job, so that
// the next kernel of a step finds them awake, then sleep: an idle engine uses no processor. A job
// allocates nothing; its function must not throw.
//
// A worker that wakes late finds nothing left and the caller has done its share, so a busy machine
// costs no hand-over.
#pragma once

#include <atomic>
#include <cstdint>
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

  // Calls f(item, thread) for every item in 0 .. items - 1 (below 2^32), in no particular order;
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
  bool run_one(int thread);
  void work(int thread);

  // A job: work_ holds the next item in its high half and the number of items in its low half, so
  // that claiming an item is one compare-and-swap. function_ and context_ are written before work_
  // and read only after a claim; until the claimed item is counted in done_ the job cannot end and
  // they cannot change.
  Function function_ = nullptr;
  const void* context_ = nullptr;
  alignas(64) std::atomic<uint64_t> work_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> signal_{
      0};  // counts jobs; sleeping workers wait for it to change
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace nanovllm
