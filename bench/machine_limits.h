// What this machine can do at most: multiply-adds that stay in registers, in the widest form that
// its instruction set has, and a streaming read of memory. Kernels and end-to-end figures are
// reported as shares of these, measured in the same run.
#pragma once

#include <functional>
#include <string>

namespace nanovllm::bench {

// The clock of all measurements: the thread's own processor time if use_processor_time was called
// (one thread, on a machine that others use too), else the time of day's.
void use_processor_time();
double seconds_now();
// The shortest of several runs, by that clock.
double best_seconds(int rounds, const std::function<void()>& f);

// Of all threads together; a multiply-add counts as two operations. 0 where the processor has no
// such instruction.
struct Limits {
  double gflops = 0;       // float32 multiply-adds
  double bf16_gflops = 0;  // bfloat16 pairs summed into float32 (AVX-512-BF16)
  double int8_gops = 0;    // 8-bit products summed into int32 (VNNI; AVX2: three instructions)
  double read_gbytes = 0;  // streaming read of memory, GB/s
};

// The best of several rounds, some seconds in all.
Limits measure_limits(int threads);

std::string to_json(const Limits& limits, int threads);

}  // namespace nanovllm::bench
