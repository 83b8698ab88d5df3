// The thread pool: every item once, nothing used when idle, and no collapse beside other work.
#include "backend/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <random>
#include <stdexcept>

#include "backend/cpu/processors.h"

namespace nanovllm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double process_cpu_seconds() {
  rusage u;
  getrusage(RUSAGE_SELF, &u);
  const auto seconds = [](timeval t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(u.ru_utime) + seconds(u.ru_stime);
}

std::vector<int> affinity() {
  cpu_set_t set;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  return cpus;
}

// Some microseconds of arithmetic that no compiler removes.
void work_a_little(int rounds) {
  volatile float x = 1;
  for (int i = 0; i < rounds; ++i) x = x * 1.0001f;
}

TEST(ThreadPool, RunsEveryItemOnce) {
  std::mt19937 rng(1);
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int job = 0; job < 300; ++job) {
      const int64_t items = static_cast<int64_t>(rng() % (job % 10 ? 20 : 2000));
      std::vector<std::atomic<int>> runs(items);
      pool.parallel_for(items, [&](int64_t item, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, threads);
        ++runs[item];
      });
      for (const auto& r : runs) ASSERT_EQ(r, 1);
    }
  }
}

TEST(ThreadPool, AnExceptionReachesTheCallerAndTheOthersRun) {
  ThreadPool pool(2);
  for (int job = 0; job < 50; ++job) {
    std::atomic<int> runs{0};
    EXPECT_THROW(pool.parallel_for(20,
                                   [&](int64_t item, int) {
                                     ++runs;
                                     if (item % 5 == 0) throw std::runtime_error("item");
                                   }),
                 std::runtime_error);
    EXPECT_EQ(runs, 20);
    pool.parallel_for(20, [&](int64_t, int) { ++runs; });
    EXPECT_EQ(runs, 40);
  }
}

TEST(ThreadPool, UsesNoProcessorWhenIdle) {
  ThreadPool pool(4);
  pool.parallel_for(100, [](int64_t, int) { work_a_little(1000); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(process_cpu_seconds() - before, 0.005);
}

// Waits until the pool's worker has taken an item, and tells where it may run.
std::vector<int> affinity_of_worker(ThreadPool& pool) {
  std::vector<int> cpus;
  std::atomic<bool> seen{false};
  while (!seen)
    pool.parallel_for(2, [&](int64_t, int thread) {
      if (thread == 1) cpus = affinity(), seen = true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    });
  return cpus;
}

TEST(ThreadPool, LeavesTheCallersAffinityAlone) {
  const auto before = affinity();
  const auto cores = available_processors().cores;
  {
    ThreadPool pool(static_cast<int>(cores.size()));
    if (pool.size() > 1) {
      const auto worker = affinity_of_worker(pool);
      EXPECT_TRUE(std::ranges::find(cores, worker) != cores.end()) << "is on a core of its own";
    }
    EXPECT_EQ(affinity(), before);
    ThreadPool larger(static_cast<int>(cores.size()) + 1);
    EXPECT_EQ(affinity_of_worker(larger), before);  // no core of its own to have
  }
  setenv("NANO_VLLM_PIN", "0", 1);
  ThreadPool pool(static_cast<int>(cores.size()));
  unsetenv("NANO_VLLM_PIN");
  if (pool.size() > 1) {
    EXPECT_EQ(affinity_of_worker(pool), before);
  }
}

// Five steps of two hundred jobs, as a small model decodes them.
double seconds_of_steps(ThreadPool& pool) {
  const auto start = Clock::now();
  for (int job = 0; job < 1000; ++job)
    pool.parallel_for(8, [](int64_t, int) { work_a_little(3000); });
  return seconds_since(start);
}

// With a busy loop on every processor the fair share is half, so twice the time; a pool that waits
// for threads that are not running takes a hundred times as long. The bound is wide because other
// programs may run, too.
TEST(ThreadPool, GoesOnBesideBusyThreads) {
  const Processors processors = available_processors();
  ThreadPool pool(processors.default_threads());
  ThreadPool one(1);
  const double alone = std::min(seconds_of_steps(one), seconds_of_steps(one));
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < processors.num_logical(); ++i)
    busy.emplace_back([&] {
      while (!stop) work_a_little(1000);
    });
  const double beside = seconds_of_steps(pool);
  stop = true;
  for (std::thread& t : busy) t.join();
  RecordProperty("slowdown", std::to_string(beside / alone));
  EXPECT_LT(beside, 8 * alone);
}

TEST(ThreadPool, AWorkerLeavesACoreThatOthersWant) {
  const auto everywhere = affinity();
  const Processors processors = available_processors();
  ThreadPool pool(static_cast<int>(processors.cores.size()));
  if (pool.size() == 1) GTEST_SKIP() << "one core";
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < 2 * processors.num_logical(); ++i)
    busy.emplace_back([&] {
      while (!stop) work_a_little(1000);
    });
  const auto start = Clock::now();
  std::vector<int> now;
  do {
    seconds_of_steps(pool);
    now = affinity_of_worker(pool);
  } while (now != everywhere && seconds_since(start) < 60);
  stop = true;
  for (std::thread& t : busy) t.join();
  EXPECT_EQ(now, everywhere);
}

TEST(ThreadPool, PoolsDoNotStarveEachOther) {
  const int threads = available_processors().default_threads();
  ThreadPool a(threads), b(threads), one(1);
  const double alone = std::min(seconds_of_steps(one), seconds_of_steps(one));
  double of_b = 0;
  std::thread other([&] { of_b = seconds_of_steps(b); });
  const double of_a = seconds_of_steps(a);
  other.join();
  EXPECT_LT(std::max(of_a, of_b), 8 * alone);
}

}  // namespace
}  // namespace nanovllm
