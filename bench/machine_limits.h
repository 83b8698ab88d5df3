// What this machine can do at most, per thread: fused multiply-adds on registers (float32, AVX2; on
// other machines what the compiler makes of the loop) and a streaming read of memory. Kernels are
// reported as shares of these.
#pragma once

#include <cstddef>

namespace nanovllm::bench {

// The clock of all measurements: the thread's own processor time if use_processor_time was called
// (one thread, on a machine that others use too), else the time of day's.
void use_processor_time();
double seconds_now();

double measure_gflops();  // takes about 0.1 s
double measure_read_gbytes(const char* memory,
                           size_t bytes);  // 64-byte aligned, larger than the caches

}  // namespace nanovllm::bench
