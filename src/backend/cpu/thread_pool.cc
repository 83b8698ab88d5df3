#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

namespace nanovllm {
namespace {

constexpr std::chrono::microseconds kSpin{50};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until the value is no longer `old`: spins, then sleeps.
void wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(int64_t items, Function function, const void* context) {
  if (workers_.empty() || items <= 1) {
    for (int64_t item = 0; item < items; ++item) function(context, item, 0);
    return;
  }
  function_ = function;
  context_ = context;
  done_.store(0, std::memory_order_relaxed);
  work_.store(static_cast<uint64_t>(items), std::memory_order_release);
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_all();
  while (run_one(0)) {
  }
  uint32_t done;
  while ((done = done_.load(std::memory_order_acquire)) != items) wait_for_change(done_, done);
}

bool ThreadPool::run_one(int thread) {
  uint64_t work = work_.load(std::memory_order_acquire);
  do {
    if ((work >> 32) >= (work & 0xffffffffu)) return false;
  } while (!work_.compare_exchange_weak(work, work + (uint64_t{1} << 32), std::memory_order_acq_rel,
                                        std::memory_order_acquire));
  const uint32_t items = static_cast<uint32_t>(work);
  function_(context_, static_cast<int64_t>(work >> 32), thread);
  // Only the caller waits on done_, and only for the last item. `items` was read before: the job
  // may be gone by now.
  if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == items) done_.notify_one();
  return true;
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    while (run_one(thread)) {
    }
    wait_for_change(signal_, seen);
    seen = signal_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
  }
}

}  // namespace nanovllm
