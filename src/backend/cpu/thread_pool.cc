#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "backend/cpu/processors.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif

namespace nanovllm {
namespace {

constexpr std::chrono::microseconds kSpin{100};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Workers stay on cores of their own, other than the caller's. A failure leaves them where they
// are.
void pin(std::vector<std::thread>& workers, const Processors& processors) {
#ifdef __linux__
  const int here = sched_getcpu();
  size_t next = 0;
  for (std::thread& worker : workers) {
    if (std::ranges::find(processors.cores[next], here) != processors.cores[next].end()) ++next;
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : processors.cores[next++])
      if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    pthread_setaffinity_np(worker.native_handle(), sizeof set, &set);
  }
#else
  (void)workers, (void)processors;
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 1) return;
  const Processors processors = available_processors();
  if (threads <= processors.num_logical()) spin_ = kSpin;
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  const char* choice = std::getenv("NANO_VLLM_PIN");
  const bool may_pin = !choice || std::string_view(choice) != "0";
  if (may_pin && threads == static_cast<int>(processors.cores.size())) pin(workers_, processors);
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  signal_.fetch_add(1);
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
  signal_.fetch_add(1);
  signal_.notify_all();
  run_items(0);
  uint32_t done;
  while ((done = done_.load(std::memory_order_acquire)) != items) wait_for_change(done_, done);
  if (failed_.load(std::memory_order_relaxed)) {
    failed_.store(false, std::memory_order_relaxed);
    std::rethrow_exception(std::exchange(error_, nullptr));
  }
}

// Claims and runs items until there are none, then counts them, all at once.
void ThreadPool::run_items(int thread) {
  uint32_t finished = 0, items = 0;
  while (true) {
    uint64_t work = work_.load(std::memory_order_acquire);
    if ((work >> 32) >= static_cast<uint32_t>(work)) break;
    work = work_.fetch_add(uint64_t{1} << 32, std::memory_order_acq_rel);
    if ((work >> 32) >= static_cast<uint32_t>(work)) break;
    items = static_cast<uint32_t>(work);
    try {
      function_(context_, static_cast<int64_t>(work >> 32), thread);
    } catch (...) {
      if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
    }
    ++finished;
  }
  // Only the caller waits on done_, and only for the last items. Once they are counted the job may
  // be gone.
  if (finished > 0 && done_.fetch_add(finished) + finished == items) done_.notify_one();
}

void ThreadPool::work(int thread) {
  uint32_t seen = 0;
  while (true) {
    run_items(thread);
    wait_for_change(signal_, seen);
    seen = signal_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
  }
}

// Spins, then sleeps, until the value is no longer `old`.
void ThreadPool::wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) const {
  if (spin_.count() > 0) {
    const auto end = std::chrono::steady_clock::now() + spin_;
    do {
      for (int i = 0; i < 32; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
      }
    } while (std::chrono::steady_clock::now() < end);
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace nanovllm
