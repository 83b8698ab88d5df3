// bench_limits [threads]: the machine's limits as one JSON object.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "machine_limits.h"

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1]))
                               : static_cast<int>(std::thread::hardware_concurrency());
  std::puts(nanovllm::bench::to_json(nanovllm::bench::measure_limits(threads), threads).c_str());
}
