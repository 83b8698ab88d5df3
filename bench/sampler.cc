// bench_sampler [vocabulary] [rows]: processor time that sampling takes of one thread, for each
// parameter alone and together, on two kinds of logits: flat ones, as random weights give, and
// peaked ones, where ten tokens hold nearly all of the mass. Every row is another one, so that none
// is in the first caches.
#include "sampling/sampler.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "machine_limits.h"
#include "sampling/request_sampling.h"

namespace nanovllm::bench {
namespace {

struct Case {
  const char* name;
  SamplingParams params;
};

double best_milliseconds(const SamplingParams& params, int64_t vocab, int64_t rows,
                         std::vector<float>& logits) {
  std::vector<int32_t> tokens(256);
  std::iota(tokens.begin(), tokens.end(), 0);
  Sampler sampler(vocab);
  double best = 1e9;
  for (int round = 0; round < 7; ++round) {
    const double start = seconds_now();
    for (int64_t r = 0; r < rows; ++r) {
      const RequestSampling sampling(params, static_cast<uint64_t>(round * rows + r), 128, {});
      const std::span row(logits.data() + r * vocab, static_cast<size_t>(vocab));
      const int32_t token = sampler.sample(sampling.row(tokens, 0, 0), row);
      if (params.logprobs) sampler.logprobs(row, token, *params.logprobs);
    }
    best = std::min(best, seconds_now() - start);
  }
  return best * 1e3;
}

void run(int64_t vocab, int64_t rows) {
  const Case cases[] = {
      {"greedy", {.temperature = 0}},
      {"temperature", {.temperature = 0.8}},
      {"top_k 50", {.temperature = 0.8, .top_k = 50}},
      {"top_k 5000", {.temperature = 0.8, .top_k = 5000}},
      {"top_p 0.9", {.temperature = 0.8, .top_p = 0.9}},
      {"min_p 0.05", {.temperature = 0.8, .min_p = 0.05}},
      {"top_k 50, top_p 0.9", {.temperature = 0.8, .top_k = 50, .top_p = 0.9}},
      {"penalties", {.temperature = 0.8, .repetition_penalty = 1.1, .frequency_penalty = 0.1}},
      {"greedy, 5 logprobs", {.temperature = 0, .logprobs = 5}}};
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> flat(static_cast<size_t>(vocab * rows));
  for (float& x : flat) x = normal(random);
  std::vector<float> peaked = flat;
  for (int64_t r = 0; r < rows; ++r)
    for (int i = 0; i < 10; ++i)
      peaked[static_cast<size_t>(r * vocab + random() % vocab)] += 12 + normal(random);
  std::printf("%d rows of %d logits%19s %10s\n%-26s %12s %10s\n", static_cast<int>(rows),
              static_cast<int>(vocab), "flat, ms", "peaked, ms", "", "", "");
  for (const Case& c : cases)
    std::printf("%-32s %14.2f %10.2f\n", c.name, best_milliseconds(c.params, vocab, rows, flat),
                best_milliseconds(c.params, vocab, rows, peaked));
}

}  // namespace
}  // namespace nanovllm::bench

int main(int argc, char** argv) {
  nanovllm::bench::use_processor_time();
  nanovllm::bench::run(argc > 1 ? std::atoll(argv[1]) : 151936,
                       argc > 2 ? std::atoll(argv[2]) : 64);
}
