#include "machine_limits.h"

#include <cstdint>
#include <ctime>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace nanovllm::bench {
namespace {

clockid_t g_clock = CLOCK_MONOTONIC;

}  // namespace

void use_processor_time() { g_clock = CLOCK_THREAD_CPUTIME_ID; }

double seconds_now() {
  timespec t;
  clock_gettime(g_clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

#if defined(__AVX2__)

double measure_gflops() {
  constexpr int kChains = 12;  // latency 4, two a cycle: 8 would just do
  __m256 a[kChains];
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-4f);
  for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
  constexpr int64_t kSteps = 2000000;
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) a[i] = _mm256_fmadd_ps(a[i], x, y);
  const double seconds = seconds_now() - start;
  float sum = 0;
  for (const __m256& v : a) sum += _mm256_cvtss_f32(v);
  volatile float keep = sum;
  (void)keep;
  return kSteps * kChains * 16 / seconds / 1e9;
}

double measure_read_gbytes(const char* memory, size_t bytes) {
  __m256i s[4] = {};
  const double start = seconds_now();
  for (size_t i = 0; i + 128 <= bytes; i += 128)
    for (int j = 0; j < 4; ++j)
      s[j] = _mm256_xor_si256(
          s[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(memory + i + 32 * j)));
  const double seconds = seconds_now() - start;
  const __m256i all = _mm256_xor_si256(_mm256_xor_si256(s[0], s[1]), _mm256_xor_si256(s[2], s[3]));
  volatile int64_t keep = _mm256_extract_epi64(all, 0);
  (void)keep;
  return static_cast<double>(bytes) / seconds / 1e9;
}

#else

double measure_gflops() {
  constexpr int kLanes = 96;
  float a[kLanes] = {};
  constexpr int64_t kSteps = 2000000;
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kLanes; ++i) a[i] = __builtin_fmaf(a[i], 0.999f, 1e-4f);
  const double seconds = seconds_now() - start;
  volatile float keep = a[0];
  (void)keep;
  return kSteps * kLanes * 2 / seconds / 1e9;
}

double measure_read_gbytes(const char* memory, size_t bytes) {
  uint64_t s[8] = {};
  const uint64_t* words = reinterpret_cast<const uint64_t*>(memory);
  const double start = seconds_now();
  for (size_t i = 0; i + 8 <= bytes / 8; i += 8)
    for (int j = 0; j < 8; ++j) s[j] ^= words[i + j];
  const double seconds = seconds_now() - start;
  volatile uint64_t keep = s[0] ^ s[1] ^ s[2] ^ s[3] ^ s[4] ^ s[5] ^ s[6] ^ s[7];
  (void)keep;
  return static_cast<double>(bytes) / seconds / 1e9;
}

#endif

}  // namespace nanovllm::bench
