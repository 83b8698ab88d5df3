#include "cli/bench_serve_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cli/bench_statistics.h"

namespace nanovllm::cli {
namespace {

using client::LoadOutcome;
using openai::Json;

struct Metric {
  const char *key, *name, *title;
  std::vector<double> ServeFigures::*values;
};

constexpr Metric kMetrics[] = {
    {"ttft", "TTFT", "Time to First Token", &ServeFigures::ttft},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)", &ServeFigures::tpot},
    {"itl", "ITL", "Inter-token Latency", &ServeFigures::itl},
    {"e2el", "E2EL", "End-to-end Latency", &ServeFigures::e2el}};

bool wanted(const Metric& metric, const ServeReportOptions& options) {
  return std::ranges::find(options.metrics, metric.key) != options.metrics.end();
}

// The most chunks in one second of the run.
double peak_rate(const std::vector<LoadOutcome>& outcomes, double duration) {
  std::vector<int64_t> seconds(static_cast<size_t>(duration) + 1);
  for (const LoadOutcome& outcome : outcomes)
    for (const double time : outcome.token_times)
      ++seconds[std::min(static_cast<size_t>(time), seconds.size() - 1)];
  return static_cast<double>(*std::ranges::max_element(seconds));
}

int64_t peak_concurrency(const std::vector<LoadOutcome>& outcomes) {
  std::vector<std::pair<double, int>> changes;  // an end comes before a start at the same time
  for (const LoadOutcome& outcome : outcomes) {
    if (outcome.end <= outcome.start) continue;
    changes.push_back({outcome.start, 1});
    changes.push_back({outcome.end, -1});
  }
  std::ranges::sort(changes);
  int64_t running = 0, peak = 0;
  for (const auto& [time, change] : changes) peak = std::max(peak, running += change);
  return peak;
}

double per_second(int64_t count, double duration) {
  return duration > 0 ? static_cast<double>(count) / duration : 0;
}

std::vector<double> gaps(const LoadOutcome& outcome) {
  std::vector<double> result;
  for (size_t i = 1; i < outcome.token_times.size(); ++i)
    result.push_back(outcome.token_times[i] - outcome.token_times[i - 1]);
  return result;
}

}  // namespace

ServeFigures serve_figures(const std::vector<LoadOutcome>& outcomes,
                           const std::vector<int64_t>& planned_input) {
  ServeFigures f;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const LoadOutcome& outcome = outcomes[i];
    f.duration = std::max(f.duration, outcome.end);
    if (!outcome.ok) {
      ++f.failed;
      continue;
    }
    ++f.completed;
    f.input_tokens += outcome.usage ? outcome.usage->prompt_tokens : planned_input[i];
    f.output_tokens += outcome.output_tokens();
    f.cached_tokens += outcome.usage ? outcome.usage->cached_tokens : 0;
    f.e2el.push_back(outcome.end - outcome.start);
    if (outcome.token_times.empty()) continue;
    f.ttft.push_back(outcome.token_times.front() - outcome.start);
    if (outcome.output_tokens() > 1)
      f.tpot.push_back((outcome.token_times.back() - outcome.token_times.front()) /
                       static_cast<double>(outcome.output_tokens() - 1));
    const std::vector<double> between = gaps(outcome);
    f.itl.insert(f.itl.end(), between.begin(), between.end());
  }
  f.peak_output_tokens_per_second = peak_rate(outcomes, f.duration);
  f.peak_concurrency = peak_concurrency(outcomes);
  return f;
}

std::string serve_table(const ServeFigures& f, const ServeReportOptions& options,
                        double request_rate, int64_t max_concurrency) {
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  const auto whole = [&](const char* name, int64_t value) {
    text += fmt::format("{:<40} {:<10}\n", name, value);
  };
  const auto number = [&](const std::string& name, double value) {
    text += fmt::format("{:<40} {:<10.2f}\n", name, value);
  };
  whole("Successful requests:", f.completed);
  whole("Failed requests:", f.failed);
  if (max_concurrency > 0) whole("Maximum request concurrency:", max_concurrency);
  if (std::isfinite(request_rate)) number("Request rate configured (RPS):", request_rate);
  number("Benchmark duration (s):", f.duration);
  whole("Total input tokens:", f.input_tokens);
  whole("Total generated tokens:", f.output_tokens);
  number("Request throughput (req/s):", per_second(f.completed, f.duration));
  number("Output token throughput (tok/s):", per_second(f.output_tokens, f.duration));
  number("Peak output token throughput (tok/s):", f.peak_output_tokens_per_second);
  whole("Peak concurrent requests:", f.peak_concurrency);
  number("Total token throughput (tok/s):",
         per_second(f.input_tokens + f.output_tokens, f.duration));
  for (const Metric& metric : kMetrics) {
    if (!wanted(metric, options)) continue;
    const std::vector<double>& values = f.*metric.values;
    text += fmt::format("{:-^50}\n", metric.title);
    number(fmt::format("Mean {} (ms):", metric.name), mean(values) * 1e3);
    number(fmt::format("Median {} (ms):", metric.name), percentile(values, 50) * 1e3);
    for (const double p : options.percentiles)
      number(fmt::format("P{} {} (ms):", p, metric.name), percentile(values, p) * 1e3);
  }
  return text + std::string(50, '=') + "\n";
}

void add_serve_figures(const ServeFigures& f, const std::vector<LoadOutcome>& outcomes,
                       const ServeReportOptions& options, Json* result) {
  Json& r = *result;
  r["duration"] = f.duration;
  r["completed"] = f.completed;
  r["failed"] = f.failed;
  r["total_input_tokens"] = f.input_tokens;
  r["total_output_tokens"] = f.output_tokens;
  r["total_cached_tokens"] = f.cached_tokens;
  r["request_throughput"] = per_second(f.completed, f.duration);
  r["output_throughput"] = per_second(f.output_tokens, f.duration);
  r["total_token_throughput"] = per_second(f.input_tokens + f.output_tokens, f.duration);
  r["max_output_tokens_per_s"] = f.peak_output_tokens_per_second;
  r["max_concurrent_requests"] = f.peak_concurrency;
  for (const Metric& metric : kMetrics) {
    if (!wanted(metric, options)) continue;
    const std::vector<double>& values = f.*metric.values;
    const std::string suffix = std::string("_") + metric.key + "_ms";
    r["mean" + suffix] = mean(values) * 1e3;
    r["median" + suffix] = percentile(values, 50) * 1e3;
    r["std" + suffix] = standard_deviation(values) * 1e3;
    for (const double p : options.percentiles)
      r[fmt::format("p{}{}", p, suffix)] = percentile(values, p) * 1e3;
  }
  if (!options.detailed) return;
  for (const char* list : {"start_times", "input_lens", "output_lens", "ttfts", "itls", "errors"})
    r[list] = Json::array();
  for (const LoadOutcome& outcome : outcomes) {
    r["start_times"].push_back(outcome.start);
    r["input_lens"].push_back(outcome.usage ? outcome.usage->prompt_tokens : 0);
    r["output_lens"].push_back(outcome.output_tokens());
    r["ttfts"].push_back(outcome.token_times.empty() ? 0
                                                     : outcome.token_times.front() - outcome.start);
    r["itls"].push_back(gaps(outcome));
    r["errors"].push_back(outcome.error);
  }
}

}  // namespace nanovllm::cli
