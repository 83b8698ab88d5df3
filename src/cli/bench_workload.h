// The requests of `bench`, and one timed run of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nanovllm/llm.h"

namespace nanovllm::cli {

struct WorkloadOptions {
  int64_t input_len = 128, output_len = 128;      // tokens
  int64_t min_input_len = 0, min_output_len = 0;  // > 0: lengths vary from this to that
  double range_ratio = 0;                         // R: lengths vary by (1 - R) to (1 + R)
  int64_t prefix_len = 0;                         // tokens that all prompts begin with
  std::string dataset_path;                       // JSON lines instead of random prompts
  SamplingParams params;
};

// One request of random tokens.
struct RandomRequest {
  std::vector<int32_t> prompt;
  int64_t output_len = 0;
};

// `count` requests of random ids below `vocab`; the same on every machine for the same seed.
// Another `repetition` keeps lengths and prefix and draws the other tokens anew, so that the prefix
// cache does not know them.
std::vector<RandomRequest> random_requests(int64_t vocab, const WorkloadOptions& options,
                                           uint64_t seed, int64_t count, int64_t repetition = 0);

struct Workload {
  std::vector<Prompt> prompts;
  std::vector<SamplingParams> params;
  int64_t input_tokens = 0, output_tokens = 0;
};

// random_requests() for a model. Throws InvalidArgument if one does not fit its context.
Workload random_workload(const LLM& llm, const WorkloadOptions& options, uint64_t seed,
                         int64_t count, int64_t repetition = 0);

// The first `count` lines of options.dataset_path, each {"prompt": TEXT or [IDS],
// "output_tokens": N}; N is optional and else --output-len. Throws Error naming the line.
Workload file_workload(const LLM& llm, const WorkloadOptions& options, int64_t count);

// Throws InvalidArgument unless 0 <= ratio < 1.
void check_range_ratio(double ratio);

// Times in seconds since the run began.
struct RunFigures {
  bool interrupted = false;
  double elapsed = 0;
  std::vector<double> first_token;       // of each request
  std::vector<double> per_output_token;  // of each request, after its first; none for one token
  // Tokens a second while every request was decoding: from the last one's first token until the
  // first one was done. 0 if there is no such time.
  double decode_tokens_per_second = 0;
};

// Runs all requests together; a progress line on stderr begins with `label`.
RunFigures run_workload(LLM& llm, const Workload& workload, const std::string& label);

}  // namespace nanovllm::cli
