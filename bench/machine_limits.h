// What this machine can do at most, per thread: fused multiply-adds on registers (float32, AVX2; on other machines what the
// compiler makes of the loop) and a streaming read of memory. Kernels are reported as shares of these.
#pragma once

#include <cstddef>

namespace nanovllm::bench {

double measure_gflops();                                 // takes about 0.1 s
double measure_read_gbytes(const char* memory, size_t bytes);  // 64-byte aligned, larger than the caches

}  // namespace nanovllm::bench
