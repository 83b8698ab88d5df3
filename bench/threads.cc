// bench_threads [threads]: what handing a job to the thread pool costs, when its workers are awake
// and when they sleep.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "backend/cpu/processors.h"
#include "backend/cpu/thread_pool.h"

int main(int argc, char** argv) {
  using Clock = std::chrono::steady_clock;
  const int threads =
      argc > 1 ? std::atoi(argv[1]) : nanovllm::available_processors().default_threads();
  nanovllm::ThreadPool pool(threads);
  const auto measure = [&](int jobs, std::chrono::microseconds rest, int64_t items) {
    std::vector<double> times;
    for (int i = 0; i < jobs; ++i) {
      if (rest.count()) std::this_thread::sleep_for(rest);
      const auto start = Clock::now();
      pool.parallel_for(items, [](int64_t, int) {});
      times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    std::sort(times.begin(), times.end());
    std::printf("  median %6.2f us, 99 %% below %6.2f us\n", times[times.size() / 2],
                times[times.size() * 99 / 100]);
  };
  std::printf("%d threads\n", threads);
  for (const int64_t items : {int64_t{threads}, int64_t{64}, int64_t{1024}}) {
    std::printf("%d empty items, workers awake\n", static_cast<int>(items));
    measure(20000, std::chrono::microseconds(0), items);
  }
  std::printf("%d empty items, workers asleep\n", threads);
  measure(500, std::chrono::microseconds(1000), threads);
}
