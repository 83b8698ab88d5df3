// bench throughput and bench latency: random token ids, answers of a fixed length, so that only the
// engine is measured. Flags and JSON are vLLM's; --min-input-len and --min-output-len give
// nano-vLLM's workload of random lengths.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "cli/shared_flags.h"
#include "server/openai_json.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

struct BenchOptions {
  EngineConfig config;
  SamplingParams params;
  int64_t input_len = 128, output_len = 128, min_input_len = 0, min_output_len = 0, prefix_len = 0;
  double range_ratio = 0;
  int64_t num_prompts = 64;                               // throughput
  int64_t batch_size = 8, num_iters = 5, num_warmup = 1;  // latency
  std::string output_json;
  bool json = false;
};

// std::uniform_int_distribution differs between standard libraries; this gives the same workload
// everywhere.
int64_t uniform(std::mt19937_64& random, int64_t low, int64_t high) {
  return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
}

int64_t random_length(std::mt19937_64& random, int64_t length, int64_t min_length, double ratio) {
  if (min_length > 0) return uniform(random, min_length, length);
  const double delta = static_cast<double>(length) * ratio;
  return uniform(random, std::max<int64_t>(1, std::llround(static_cast<double>(length) - delta)),
                 std::llround(static_cast<double>(length) + delta));
}

struct Workload {
  std::vector<Prompt> prompts;
  std::vector<SamplingParams> params;
  int64_t input_tokens = 0, output_tokens = 0;
};

Workload make_workload(const LLM& llm, const BenchOptions& o, int64_t count) {
  std::mt19937_64 random(o.config.seed);
  const int64_t vocab = llm.info().vocab_size, context = llm.memory_plan().max_model_len;
  std::vector<int32_t> prefix;
  for (int64_t i = 0; i < o.prefix_len; ++i)
    prefix.push_back(static_cast<int32_t>(uniform(random, 0, vocab - 1)));
  Workload w;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t in = random_length(random, o.input_len, o.min_input_len, o.range_ratio);
    const int64_t out = random_length(random, o.output_len, o.min_output_len, o.range_ratio);
    Prompt prompt{.token_ids = prefix};
    for (int64_t t = 0; t < in; ++t)
      prompt.token_ids.push_back(static_cast<int32_t>(uniform(random, 0, vocab - 1)));
    const auto total = static_cast<int64_t>(prompt.token_ids.size()) + out;
    if (total > context)
      throw InvalidArgument(
          "--input-len",
          fmt::format("a request of {} tokens in and out does not fit the context of {}; "
                      "shorten it or raise --max-model-len",
                      total, context));
    w.input_tokens += static_cast<int64_t>(prompt.token_ids.size());
    w.output_tokens += out * o.params.n;
    w.prompts.push_back(std::move(prompt));
    w.params.push_back(o.params);
    w.params.back().max_tokens = out;
    w.params.back().ignore_eos = true;
  }
  return w;
}

// Seconds the workload took; negative if it was interrupted.
double run_once(LLM& llm, const Workload& w, const std::string& label) {
  ProgressLine line;
  const int64_t before = llm.stats().tokens_generated;
  const double begin = seconds_since_start();
  llm.generate(w.prompts, w.params, [&](const EngineStats& stats) {
    if (line.due()) {
      const int64_t done = stats.tokens_generated - before;
      line.show(fmt::format("{}{} {} of {} tokens, {:.1f} tokens/s", label,
                            progress_bar(done, w.output_tokens), done, w.output_tokens,
                            static_cast<double>(done) / (seconds_since_start() - begin)));
    }
    return Interrupt::signal() == 0;
  });
  const double elapsed = seconds_since_start() - begin;
  line.clear();
  return Interrupt::signal() ? -1 : elapsed;
}

void write_file(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw Error(path, std::strerror(errno));
  const ssize_t n = ::write(fd, text.data(), text.size());
  const int error = n < 0 ? errno : ENOSPC;
  const bool closed = ::close(fd) == 0;
  if (n != static_cast<ssize_t>(text.size()) || !closed) throw Error(path, std::strerror(error));
}

void report(const BenchOptions& o, const std::string& text, const Json& result) {
  write_stdout(o.json ? openai::dump(result) + "\n" : text);
  if (!o.output_json.empty()) write_file(o.output_json, result.dump(4) + "\n");
}

void check(const BenchOptions& o) {
  if (!(o.range_ratio >= 0 && o.range_ratio < 1))
    throw InvalidArgument(
        "--random-range-ratio",
        fmt::format("'{}' is not allowed; give a number from 0 up to 1", o.range_ratio));
  if (o.min_input_len > o.input_len)
    throw InvalidArgument("--min-input-len", "is above --input-len");
  if (o.min_output_len > o.output_len)
    throw InvalidArgument("--min-output-len", "is above --output-len");
}

int run_throughput(const BenchOptions& o) {
  check(o);
  LLM llm = load_model(o.config, false);
  const Workload w = make_workload(llm, o, o.num_prompts);
  Interrupt interrupt;
  const double elapsed = run_once(llm, w, "");
  if (elapsed < 0) return 128 + Interrupt::signal();
  const auto requests = static_cast<double>(o.num_prompts),
             out = static_cast<double>(w.output_tokens);
  const double total = static_cast<double>(w.input_tokens) + out;
  report(
      o,
      fmt::format("Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s\n"
                  "Total num prompt tokens:  {}\nTotal num output tokens:  {}\nElapsed: {:.2f} s, "
                  "peak memory {}\n",
                  requests / elapsed, total / elapsed, out / elapsed, w.input_tokens,
                  w.output_tokens, elapsed, format_bytes(peak_memory_bytes())),
      {{"elapsed_time", elapsed},
       {"num_requests", o.num_prompts},
       {"total_num_tokens", w.input_tokens + w.output_tokens},
       {"total_input_tokens", w.input_tokens},
       {"total_output_tokens", w.output_tokens},
       {"requests_per_second", requests / elapsed},
       {"tokens_per_second", total / elapsed},
       {"output_tokens_per_second", out / elapsed},
       {"preemptions", llm.stats().preemptions},
       {"peak_memory_bytes", peak_memory_bytes()}});
  return kExitOk;
}

// Linear interpolation between the closest ranks, as NumPy does.
double percentile(const std::vector<double>& sorted, double percent) {
  const double rank = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(rank);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (rank - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

int run_latency(const BenchOptions& o) {
  check(o);
  LLM llm = load_model(o.config, false);
  const Workload w = make_workload(llm, o, o.batch_size);
  Interrupt interrupt;
  std::vector<double> latencies;
  for (int64_t i = -o.num_warmup; i < o.num_iters; ++i) {
    const double elapsed =
        run_once(llm, w, i < 0 ? "warmup " : fmt::format("{} of {} ", i + 1, o.num_iters));
    if (elapsed < 0) return 128 + Interrupt::signal();
    if (i >= 0) latencies.push_back(elapsed);
  }
  std::vector<double> sorted = latencies;
  std::sort(sorted.begin(), sorted.end());
  const double average =
      std::accumulate(sorted.begin(), sorted.end(), 0.0) / static_cast<double>(sorted.size());
  std::string text = fmt::format("Avg latency: {:.4f} seconds\n", average);
  Json percentiles = Json::object();
  for (const int percent : {10, 25, 50, 75, 90, 99}) {
    text += fmt::format("{}% percentile latency: {:.4f} seconds\n", percent,
                        percentile(sorted, percent));
    percentiles[std::to_string(percent)] = percentile(sorted, percent);
  }
  report(o, text,
         {{"avg_latency", average}, {"latencies", latencies}, {"percentiles", percentiles}});
  return kExitOk;
}

void add_common(Flags& flags, BenchOptions* o) {
  flags.integer("--n", "completions of each prompt (default: 1)", &o->params.n, 1);
  flags.text("--output-json", "FILE", "also write the result there", &o->output_json);
  flags.toggle("--json", "print the result as JSON", &o->json);
  add_engine_seed(flags, &o->config);
  add_engine_flags(flags, &o->config);
}

}  // namespace

Action define_bench_throughput(Flags& flags) {
  auto o = std::make_shared<BenchOptions>();
  add_model_flags(flags, &o->config);
  flags.value("--dataset-name", "NAME", "random: random token ids, the only one (default: random)",
              [](const std::string& flag, const std::string& value) {
                if (value != "random")
                  throw InvalidArgument(flag, "'" + value + "' is not allowed; there is random");
              });
  flags.integer("--num-prompts", "requests (default: 64)", &o->num_prompts, 1, 1'000'000);
  flags.integer("--random-input-len,--input-len", "tokens of a prompt (default: 128)",
                &o->input_len, 1, 1 << 24);
  flags.integer("--random-output-len,--output-len", "tokens of an answer (default: 128)",
                &o->output_len, 1, 1 << 24);
  flags.number("--random-range-ratio",
               "lengths vary from (1 - R) to (1 + R) times that (default: 0)", &o->range_ratio);
  flags.integer("--min-input-len", "prompts vary from this to --input-len instead",
                &o->min_input_len, 1, 1 << 24);
  flags.integer("--min-output-len", "answers vary from this to --output-len instead",
                &o->min_output_len, 1, 1 << 24);
  flags.integer("--random-prefix-len", "tokens that all prompts begin with (default: 0)",
                &o->prefix_len, 0, 1 << 24);
  add_common(flags, o.get());
  flags.note(
      "nano-vLLM's workload: --num-prompts 256 --min-input-len 100 --input-len 1024 "
      "--min-output-len 100 "
      "--output-len 1024 --max-num-seqs 256.");
  return [o] { return run_throughput(*o); };
}

Action define_bench_latency(Flags& flags) {
  auto o = std::make_shared<BenchOptions>();
  o->input_len = 32;
  o->config.enable_prefix_caching = false;  // the same prompts run again and again
  add_model_flags(flags, &o->config);
  flags.integer("--input-len", "tokens of a prompt (default: 32)", &o->input_len, 1, 1 << 24);
  flags.integer("--output-len", "tokens of an answer (default: 128)", &o->output_len, 1, 1 << 24);
  flags.integer("--batch-size", "requests at once (default: 8)", &o->batch_size, 1, 1'000'000);
  flags.integer("--num-iters", "measured runs (default: 5)", &o->num_iters, 1, 1'000'000);
  flags.integer("--num-iters-warmup", "runs before them (default: 1)", &o->num_warmup, 0,
                1'000'000);
  add_common(flags, o.get());
  flags.note(
      "Prefix caching is off here unless --enable-prefix-caching is given: every run has the same "
      "prompts.");
  return [o] { return run_latency(*o); };
}

}  // namespace nanovllm::cli
