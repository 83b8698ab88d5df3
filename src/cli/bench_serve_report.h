// What `bench serve` makes of the requests it sent: the figures of `vllm bench serve` under its
// names, as a table and as JSON.
#pragma once

#include <string>
#include <vector>

#include "client/load_generator.h"
#include "server/openai_json.h"

namespace nanovllm::cli {

struct ServeReportOptions {
  std::vector<std::string> metrics;  // of ttft, tpot, itl, e2el: those with percentiles
  std::vector<double> percentiles;
  bool detailed = false;  // lists of every request's figures in the JSON
};

struct ServeFigures {
  int64_t completed = 0, failed = 0, input_tokens = 0, output_tokens = 0, cached_tokens = 0;
  double duration = 0;
  double peak_output_tokens_per_second = 0;  // of whole seconds; tokens counted as chunks
  int64_t peak_concurrency = 0;
  // Seconds. Of each successful request, but itl: of each gap between two chunks.
  std::vector<double> ttft, tpot, itl, e2el;
};

// planned_input: tokens of each prompt, for servers that report no usage.
ServeFigures serve_figures(const std::vector<client::LoadOutcome>& outcomes,
                           const std::vector<int64_t>& planned_input);

// request_rate: infinity for all at once. max_concurrency: 0 for none.
std::string serve_table(const ServeFigures& figures, const ServeReportOptions& options,
                        double request_rate, int64_t max_concurrency);

// Adds the figures to what is known of the run.
void add_serve_figures(const ServeFigures& figures,
                       const std::vector<client::LoadOutcome>& outcomes,
                       const ServeReportOptions& options, openai::Json* result);

}  // namespace nanovllm::cli
