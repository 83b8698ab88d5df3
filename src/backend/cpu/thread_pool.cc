#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "backend/cpu/processors.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
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

// Keeps the thread that made it on one core as long as nothing else wants that core. Taken off it
// by the kernel more than 50 times per second of processor time, the thread may run anywhere until
// it is left alone again: a thread that cannot move would be held up with an item in its hands.
// (Two busy programs on a core interrupt each other 200 times or more; a quiet system, a few.)
class CorePin {
 public:
  // Both outlive this: a worker that starts late must not allocate in the middle of a step.
  CorePin(const std::vector<int>& core, const std::vector<int>& everywhere)
      : core_(core), everywhere_(everywhere) {
    if (!core_.empty()) move_to(core_);
  }
  void after_job() {
#ifdef __linux__
    if (core_.empty() || ++jobs_ % 32 != 0) return;
    rusage use;
    getrusage(RUSAGE_THREAD, &use);
    const double now = static_cast<double>(use.ru_utime.tv_sec + use.ru_stime.tv_sec) +
                       1e-6 * static_cast<double>(use.ru_utime.tv_usec + use.ru_stime.tv_usec);
    const double seconds = now - seconds_;
    if (seconds < (pinned_ ? 0.02 : 0.5)) return;
    const double rate = static_cast<double>(use.ru_nivcsw - interruptions_) / seconds;
    if (pinned_ ? rate > 50 : rate < 10) {
      pinned_ = !pinned_;
      move_to(pinned_ ? core_ : everywhere_);
    }
    seconds_ = now;
    interruptions_ = use.ru_nivcsw;
#endif
  }

 private:
  static void move_to(const std::vector<int>& processors) {  // a failure leaves it where it is
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const int cpu : processors)
      if (cpu < CPU_SETSIZE) CPU_SET(cpu, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
#else
    (void)processors;
#endif
  }
  const std::vector<int>&core_, &everywhere_;
  bool pinned_ = true;
  int64_t jobs_ = 0;
  long interruptions_ = 0;
  double seconds_ = 0;
};

// The core each worker keeps to: one of its own, and not the caller's.
std::vector<std::vector<int>> choose_cores(size_t workers, const Processors& processors) {
  std::vector<std::vector<int>> cores(workers);
  const char* choice = std::getenv("NANO_VLLM_PIN");
  if ((choice && std::string_view(choice) == "0") || workers + 1 != processors.cores.size())
    return cores;
#ifdef __linux__
  const int here = sched_getcpu();
#else
  const int here = -1;
#endif
  size_t next = 0;
  for (auto& core : cores) {
    if (std::ranges::find(processors.cores[next], here) != processors.cores[next].end()) ++next;
    core = processors.cores[next++];
  }
  return cores;
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 1) return;
  const Processors processors = available_processors();
  if (threads <= processors.num_logical()) spin_ = kSpin;
  const auto cores = choose_cores(static_cast<size_t>(threads - 1), processors);
  std::vector<int> everywhere;
  for (const auto& core : processors.cores)
    everywhere.insert(everywhere.end(), core.begin(), core.end());
  for (int i = 1; i < threads; ++i)
    workers_.emplace_back(
        [this, i, core = cores[i - 1], everywhere] { work(i, core, everywhere); });
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

void ThreadPool::work(int thread, const std::vector<int>& core,
                      const std::vector<int>& everywhere) {
  CorePin pin(core, everywhere);
  uint32_t seen = 0;
  while (true) {
    run_items(thread);
    pin.after_job();
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
