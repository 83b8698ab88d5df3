// bench throughput and bench latency: random token ids (or those of a file), answers of a fixed
// length, so that only the engine is measured. Flags and JSON are vLLM's; --min-input-len and
// --min-output-len give nano-vLLM's workload of random lengths.
#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "cli/bench_statistics.h"
#include "cli/bench_workload.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "cli/shared_flags.h"
#include "server/openai_json.h"
#include "trace/trace_file.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

struct BenchOptions {
  EngineConfig config;
  WorkloadOptions workload;
  std::string dataset_name = "random";
  int64_t num_prompts = 64;  // throughput
  int64_t batch_size = 8;    // latency
  int64_t num_iters = 5, num_warmup = 1;
  std::string output_json, trace;
  bool json = false;
};

void report(const BenchOptions& o, const std::string& text, const Json& result) {
  write_stdout(o.json ? openai::dump(result) + "\n" : text);
  if (!o.output_json.empty()) write_text_file(o.output_json, result.dump(4) + "\n");
}

void check(const BenchOptions& o) {
  const WorkloadOptions& w = o.workload;
  SamplingFlags{.params = w.params}.check();
  check_range_ratio(w.range_ratio);
  if (w.min_input_len > w.input_len)
    throw InvalidArgument("--min-input-len", "is above --input-len");
  if (w.min_output_len > w.output_len)
    throw InvalidArgument("--min-output-len", "is above --output-len");
  if (o.dataset_name != "random" && o.dataset_name != "custom")
    throw InvalidArgument("--dataset-name",
                          "'" + o.dataset_name + "' is not allowed; there are random and custom");
  if ((o.dataset_name == "custom") == w.dataset_path.empty())
    throw InvalidArgument("--dataset-path", "goes with --dataset-name custom, and must be given");
}

// What both commands report of a run, and of the process. Milliseconds, as `vllm bench serve`.
void add_run_figures(const RunFigures& run, Json* result) {
  (*result)["mean_ttft_ms"] = mean(run.first_token) * 1e3;
  (*result)["median_ttft_ms"] = percentile(run.first_token, 50) * 1e3;
  (*result)["mean_tpot_ms"] = mean(run.per_output_token) * 1e3;
  (*result)["median_tpot_ms"] = percentile(run.per_output_token, 50) * 1e3;
  (*result)["decode_tokens_per_second"] = run.decode_tokens_per_second;
}

struct StepPart {
  const char *name, *words;
  double seconds;
};

std::vector<StepPart> step_parts(const LLM& llm) {
  const StepSeconds s = llm.stats().seconds;
  return {{"model", "model", s.model},
          {"logits", "logits", s.logits},
          {"sample", "sampling", s.sample},
          {"schedule", "scheduling", s.schedule},
          {"postprocess", "output", s.postprocess}};
}

// Where the steps' time went, warm-up included.
std::string step_shares(const LLM& llm) {
  const std::vector<StepPart> parts = step_parts(llm);
  double total = 0;
  for (const StepPart& part : parts) total += part.seconds;
  std::string text = "Steps: ";
  for (const StepPart& part : parts)
    text += fmt::format("{}{} {:.2f} %", &part == &parts[0] ? "" : ", ", part.words,
                        total > 0 ? 100 * part.seconds / total : 0);
  return text + "\n";
}

void add_process_figures(const LLM& llm, double load_seconds, Json* result) {
  (*result)["load_seconds"] = load_seconds;
  (*result)["weights_bytes"] = llm.memory_plan().weights_bytes;
  (*result)["kv_cache_bytes"] = llm.memory_plan().kv_cache_bytes;
  (*result)["activation_bytes"] = llm.memory_plan().activation_bytes;
  (*result)["preemptions"] = llm.stats().preemptions;
  (*result)["step_seconds"] = Json::object();
  for (const StepPart& part : step_parts(llm)) (*result)["step_seconds"][part.name] = part.seconds;
  (*result)["peak_memory_bytes"] = peak_memory_bytes();
  const EngineStats stats = llm.stats();
  (*result)["num_drafts"] = stats.num_drafts;
  (*result)["num_draft_tokens"] = stats.num_draft_tokens;
  (*result)["num_accepted_tokens"] = stats.num_accepted_tokens;
  if (stats.num_draft_tokens > 0)
    (*result)["draft_acceptance_rate"] = static_cast<double>(stats.num_accepted_tokens) /
                                         static_cast<double>(stats.num_draft_tokens);
}

// A line of its own for the text output, or nothing.
std::string drafts_line(const LLM& llm) {
  const std::string drafts = describe_drafts(llm.stats());
  return drafts.empty() ? "" : drafts + "\n";
}

// The measured runs, after the warm-up; false if the user stopped them. Every run has prompts of
// its own, unless they come from a file.
template <typename Each>
bool run_all(LLM& llm, const BenchOptions& o, int64_t requests, const Each& each) {
  for (int64_t i = -o.num_warmup; i < o.num_iters; ++i) {
    const Workload w =
        o.workload.dataset_path.empty()
            ? random_workload(llm, o.workload, o.config.seed, requests, i + o.num_warmup)
            : file_workload(llm, o.workload, requests);
    const std::string label = i < 0             ? "warmup "
                              : o.num_iters > 1 ? fmt::format("{} of {} ", i + 1, o.num_iters)
                                                : "";
    const RunFigures run = run_workload(llm, w, label);
    if (run.interrupted) return false;
    if (i >= 0) each(w, run);
  }
  return true;
}

int run_throughput(const BenchOptions& o) {
  if (is_worker_rank()) return run_worker_rank(o.config);
  check(o);
  TraceFile trace(o.trace);
  LLM llm = load_model(o.config, false);
  trace.watch(llm);
  const double loaded = seconds_since_start();
  Interrupt interrupt;
  std::vector<std::pair<Workload, RunFigures>> runs;
  if (!run_all(llm, o, o.num_prompts, [&](const Workload& w, const RunFigures& run) {
        runs.push_back({w, run});
      }))
    return 128 + Interrupt::signal();
  trace.close();
  // The run of the median time stands for all; all have the same lengths.
  std::ranges::sort(runs, {}, [](const auto& r) { return r.second.elapsed; });
  const auto& [w, run] = runs[runs.size() / 2];
  const double elapsed = run.elapsed, out = static_cast<double>(w.output_tokens),
               requests = static_cast<double>(w.prompts.size()),
               total = static_cast<double>(w.input_tokens) + out;
  Json result = {{"elapsed_time", elapsed},
                 {"num_requests", w.prompts.size()},
                 {"total_num_tokens", w.input_tokens + w.output_tokens},
                 {"total_input_tokens", w.input_tokens},
                 {"total_output_tokens", w.output_tokens},
                 {"requests_per_second", requests / elapsed},
                 {"tokens_per_second", total / elapsed},
                 {"output_tokens_per_second", out / elapsed}};
  result["elapsed_times"] = Json::array();
  for (const auto& r : runs) result["elapsed_times"].push_back(r.second.elapsed);
  add_run_figures(run, &result);
  add_process_figures(llm, loaded, &result);
  report(
      o,
      fmt::format("Throughput: {:.2f} requests/s, {:.2f} total tokens/s, {:.2f} output tokens/s\n"
                  "Total num prompt tokens:  {}\nTotal num output tokens:  {}\nElapsed: {:.2f} "
                  "s, peak memory {}\n",
                  requests / elapsed, total / elapsed, out / elapsed, w.input_tokens,
                  w.output_tokens, elapsed, format_bytes(peak_memory_bytes())) +
          drafts_line(llm) + step_shares(llm),
      result);
  return kExitOk;
}

int run_latency(const BenchOptions& o) {
  if (is_worker_rank()) return run_worker_rank(o.config);
  check(o);
  TraceFile trace(o.trace);
  LLM llm = load_model(o.config, false);
  trace.watch(llm);
  const double loaded = seconds_since_start();
  Interrupt interrupt;
  std::vector<double> latencies;
  RunFigures all;  // of the requests of all runs
  std::vector<double> rates;
  if (!run_all(llm, o, o.batch_size, [&](const Workload&, const RunFigures& run) {
        latencies.push_back(run.elapsed);
        rates.push_back(run.decode_tokens_per_second);
        all.first_token.insert(all.first_token.end(), run.first_token.begin(),
                               run.first_token.end());
        all.per_output_token.insert(all.per_output_token.end(), run.per_output_token.begin(),
                                    run.per_output_token.end());
      }))
    return 128 + Interrupt::signal();
  trace.close();
  all.decode_tokens_per_second = percentile(rates, 50);
  std::string text = fmt::format("Avg latency: {:.4f} seconds\n", mean(latencies));
  Json percentiles = Json::object();
  for (const int percent : {10, 25, 50, 75, 90, 99}) {
    text += fmt::format("{}% percentile latency: {:.4f} seconds\n", percent,
                        percentile(latencies, percent));
    percentiles[std::to_string(percent)] = percentile(latencies, percent);
  }
  if (all.decode_tokens_per_second > 0)
    text += fmt::format("Median first token: {:.4f} seconds, decode: {:.2f} tokens/s\n",
                        percentile(all.first_token, 50), all.decode_tokens_per_second);
  text += drafts_line(llm);
  Json result = {
      {"avg_latency", mean(latencies)}, {"latencies", latencies}, {"percentiles", percentiles}};
  add_run_figures(all, &result);
  add_process_figures(llm, loaded, &result);
  report(o, text, result);
  return kExitOk;
}

void add_common(Flags& flags, BenchOptions* o) {
  WorkloadOptions* w = &o->workload;
  flags.integer("--random-prefix-len", "tokens that all prompts begin with (default: 0)",
                &w->prefix_len, 0, 1 << 24);
  flags.integer("--n", "completions of each prompt (default: 1)", &w->params.n, 1);
  flags.number("--temperature", "0 always takes the likeliest token (default: 1)",
               &w->params.temperature);
  flags.integer("--top-k", "only the K likeliest tokens; 0: all (default: 0)", &w->params.top_k,
                -1);
  flags.number("--top-p", "only the likeliest tokens that together reach P (default: 1)",
               &w->params.top_p);
  flags.text("--output-json", "FILE", "also write the result there", &o->output_json);
  add_trace_flag(flags, &o->trace);
  flags.toggle("--json", "print the result as JSON", &o->json);
  add_engine_seed(flags, &o->config);
  add_engine_flags(flags, &o->config);
}

}  // namespace

Action define_bench_throughput(Flags& flags) {
  auto o = std::make_shared<BenchOptions>();
  WorkloadOptions* w = &o->workload;
  o->num_iters = 1;
  o->num_warmup = 0;
  add_model_flags(flags, &o->config);
  flags.text("--dataset-name", "NAME",
             "random: random token ids; custom: those of --dataset-path (default: random)",
             &o->dataset_name);
  flags.text("--dataset-path", "FILE",
             "JSON lines of {\"prompt\": TEXT or [IDS], \"output_tokens\": N}", &w->dataset_path);
  flags.integer("--num-prompts", "requests (default: 64)", &o->num_prompts, 1, 1'000'000);
  flags.integer("--random-input-len,--input-len", "tokens of a prompt (default: 128)",
                &w->input_len, 1, 1 << 24);
  flags.integer("--random-output-len,--output-len", "tokens of an answer (default: 128)",
                &w->output_len, 1, 1 << 24);
  flags.number("--random-range-ratio",
               "lengths vary from (1 - R) to (1 + R) times that (default: 0)", &w->range_ratio);
  flags.integer("--min-input-len", "prompts vary from this to --input-len instead",
                &w->min_input_len, 1, 1 << 24);
  flags.integer("--min-output-len", "answers vary from this to --output-len instead",
                &w->min_output_len, 1, 1 << 24);
  flags.integer("--num-iters", "measured runs, the median is reported (default: 1)", &o->num_iters,
                1, 1'000'000);
  flags.integer("--num-iters-warmup", "runs before them (default: 0)", &o->num_warmup, 0,
                1'000'000);
  add_common(flags, o.get());
  flags.note(
      "nano-vLLM's workload: --num-prompts 256 --min-input-len 100 --input-len 1024 "
      "--min-output-len 100 "
      "--output-len 1024 --max-num-seqs 256.");
  return [o] { return run_throughput(*o); };
}

Action define_bench_latency(Flags& flags) {
  auto o = std::make_shared<BenchOptions>();
  WorkloadOptions* w = &o->workload;
  w->input_len = 32;
  o->config.enable_prefix_caching = false;
  add_model_flags(flags, &o->config);
  flags.integer("--input-len", "tokens of a prompt (default: 32)", &w->input_len, 1, 1 << 24);
  flags.integer("--output-len", "tokens of an answer (default: 128)", &w->output_len, 1, 1 << 24);
  flags.integer("--batch-size", "requests at once (default: 8)", &o->batch_size, 1, 1'000'000);
  flags.integer("--num-iters", "measured runs (default: 5)", &o->num_iters, 1, 1'000'000);
  flags.integer("--num-iters-warmup", "runs before them (default: 1)", &o->num_warmup, 0,
                1'000'000);
  add_common(flags, o.get());
  flags.note(
      "Prefix caching is off here unless --enable-prefix-caching is given; the runs differ in all "
      "tokens but those of --random-prefix-len.");
  return [o] { return run_latency(*o); };
}

}  // namespace nanovllm::cli
