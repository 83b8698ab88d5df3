#include "machine_limits.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace nanovllm::bench {
namespace {

clockid_t g_clock = CLOCK_MONOTONIC;

// The loops keep enough independent chains that the latency of an instruction (4 or 5 cycles, two
// issued a cycle) does not show. Each returns 1e9 operations, or bytes, a second.
constexpr int64_t kSteps = 2000000;

#if defined(__x86_64__)

constexpr int kChains = 12;

__attribute__((target("avx2,fma"))) double fma_avx2() {
  __m256 a[kChains];
  const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-4f);
  for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_ps(static_cast<float>(i));
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) a[i] = _mm256_fmadd_ps(a[i], x, y);
  const double seconds = seconds_now() - start;
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "x"(a[i]));
  return kSteps * kChains * 16 / seconds / 1e9;
}

__attribute__((target("avx512f"))) double fma_avx512() {
  __m512 a[kChains];
  const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-4f);
  for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_fmadd_ps(a[i], x, y);
  const double seconds = seconds_now() - start;
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "v"(a[i]));
  return kSteps * kChains * 32 / seconds / 1e9;
}

__attribute__((target("avx512f,avx512bf16"))) double dot_bf16() {
  __m512 a[kChains];
  const __m512i ones = _mm512_set1_epi32(0x3f803f80);
  __m512bh x, y;
  std::memcpy(&x, &ones, sizeof x);
  std::memcpy(&y, &ones, sizeof y);
  for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_ps(static_cast<float>(i));
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_dpbf16_ps(a[i], x, y);
  const double seconds = seconds_now() - start;
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "v"(a[i]));
  return kSteps * kChains * 64 / seconds / 1e9;
}

__attribute__((target("avx512f,avx512vnni"))) double dot_int8_vnni() {
  __m512i a[kChains];
  const __m512i x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
  for (int i = 0; i < kChains; ++i) a[i] = _mm512_set1_epi32(i);
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) a[i] = _mm512_dpbusd_epi32(a[i], x, y);
  const double seconds = seconds_now() - start;
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "v"(a[i]));
  return kSteps * kChains * 128 / seconds / 1e9;
}

__attribute__((target("avx2,avxvnni"))) double dot_int8_avxvnni() {
  __m256i a[kChains];
  const __m256i x = _mm256_set1_epi8(1), y = _mm256_set1_epi8(2);
  for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_epi32(i);
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) a[i] = _mm256_dpbusd_avx_epi32(a[i], x, y);
  const double seconds = seconds_now() - start;
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "x"(a[i]));
  return kSteps * kChains * 64 / seconds / 1e9;
}

// Without VNNI: products in pairs to 16 bits, these in pairs to 32 bits, and the sum.
__attribute__((target("avx2"))) double dot_int8_avx2() {
  __m256i a[kChains];
  __m256i x = _mm256_set1_epi8(1);
  const __m256i y = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
  for (int i = 0; i < kChains; ++i) a[i] = _mm256_set1_epi32(i);
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kChains; ++i) {
      asm volatile("" : "+x"(x));  // or the product, always the same, would leave the loop
      a[i] = _mm256_add_epi32(a[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
    }
  const double seconds = seconds_now() - start;
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "x"(a[i]));
  return kSteps * kChains * 64 / seconds / 1e9;
}

bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

double measure_float32() {
  if (__builtin_cpu_supports("avx512f")) return fma_avx512();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? fma_avx2() : 0;
}

double measure_bf16() { return __builtin_cpu_supports("avx512bf16") ? dot_bf16() : 0; }

double measure_int8() {
  if (__builtin_cpu_supports("avx512vnni")) return dot_int8_vnni();
  if (!__builtin_cpu_supports("avx2")) return 0;
  return has_avxvnni() ? dot_int8_avxvnni() : dot_int8_avx2();
}

__attribute__((target("avx2"))) double read_avx2(const char* memory, size_t bytes) {
  __m256i s[4] = {};
  const double start = seconds_now();
  for (size_t i = 0; i + 128 <= bytes; i += 128)
    for (int j = 0; j < 4; ++j)
      s[j] = _mm256_xor_si256(
          s[j], _mm256_load_si256(reinterpret_cast<const __m256i*>(memory + i + 32 * j)));
  const double seconds = seconds_now() - start;
  for (const __m256i& v : s) asm volatile("" : : "x"(v));
  return static_cast<double>(bytes) / seconds / 1e9;
}

#else

// What the compiler makes of the plain loop.
double measure_float32() {
  constexpr int kLanes = 96;
  float a[kLanes] = {};
  const double start = seconds_now();
  for (int64_t k = 0; k < kSteps; ++k)
    for (int i = 0; i < kLanes; ++i) a[i] = __builtin_fmaf(a[i], 0.999f, 1e-4f);
  const double seconds = seconds_now() - start;
  volatile float keep = 0;
  for (const float v : a) keep = keep + v;
  return kSteps * kLanes * 2 / seconds / 1e9;
}
double measure_bf16() { return 0; }
double measure_int8() { return 0; }

#endif

double read_words(const char* memory, size_t bytes) {
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

double measure_read(const char* memory, size_t bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return read_avx2(memory, bytes);
#endif
  return read_words(memory, bytes);
}

// The sum over `threads` that run f at the same time; with one, on this thread, whose processor
// time may be the clock.
double all_threads(int threads, const std::function<double(int)>& f) {
  if (threads == 1) return f(0);
  std::vector<double> each(static_cast<size_t>(threads));
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i)
    workers.emplace_back([&, i] { each[static_cast<size_t>(i)] = f(i); });
  for (std::thread& worker : workers) worker.join();
  double sum = 0;
  for (const double x : each) sum += x;
  return sum;
}

}  // namespace

void use_processor_time() { g_clock = CLOCK_THREAD_CPUTIME_ID; }

double seconds_now() {
  timespec t;
  clock_gettime(g_clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double best_seconds(int rounds, const std::function<void()>& f) {
  double best = 1e9;
  for (int i = 0; i < rounds; ++i) {
    const double start = seconds_now();
    f();
    best = std::min(best, seconds_now() - start);
  }
  return best;
}

Limits measure_limits(int threads) {
  constexpr size_t kBytes = size_t{256} << 20;  // per thread; larger than any cache
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  std::vector<std::unique_ptr<char, Free>> memory;
  for (int i = 0; i < threads; ++i) {
    memory.emplace_back(static_cast<char*>(std::aligned_alloc(4096, kBytes)));
    std::memset(memory.back().get(), i + 1, kBytes);
  }
  Limits best;
  for (int round = 0; round < 6; ++round) {
    const auto raise = [&](double& value, const std::function<double(int)>& f) {
      value = std::max(value, all_threads(threads, f));
    };
    raise(best.gflops, [](int) { return measure_float32(); });
    raise(best.bf16_gflops, [](int) { return measure_bf16(); });
    raise(best.int8_gops, [](int) { return measure_int8(); });
    raise(best.read_gbytes,
          [&](int i) { return measure_read(memory[static_cast<size_t>(i)].get(), kBytes); });
  }
  return best;
}

std::string to_json(const Limits& limits, int threads) {
  char text[256];
  std::snprintf(text, sizeof text,
                "{\"threads\": %d, \"float32_gflops\": %.1f, \"bf16_gflops\": %.1f, "
                "\"int8_gops\": %.1f, \"read_gbytes\": %.2f}",
                threads, limits.gflops, limits.bf16_gflops, limits.int8_gops, limits.read_gbytes);
  return text;
}

}  // namespace nanovllm::bench
