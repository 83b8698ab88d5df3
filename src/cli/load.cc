#include "cli/load.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <cstdio>

#include "cli/cli.h"
#include "cli/progress.h"
#include "hub/hub.h"

namespace nanovllm::cli {
namespace {
const auto start = std::chrono::steady_clock::now();  // before main
}

LLM load_model(EngineConfig config, bool quiet) {
  config.validate();
  config.model = locate_model(config.model);
  LLM llm(config);
  if (!quiet) {
    fmt::print(stderr, "{}\n", describe(llm.info()));
    if (!llm.info().backend_note.empty())
      fmt::print(stderr, "no GPU: {}\n", llm.info().backend_note);
    fmt::print(stderr, "memory: {}\n", describe(llm.memory_plan()));
  }
  return llm;
}

int run_worker_rank(EngineConfig config) {
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGTERM, SIG_IGN);
  try {
    config.model = locate_model(config.model);
  } catch (const Error&) {  // opening it will fail as well, and then the other ranks are told
  }
  work_as_rank(config);
  return kExitOk;
}

std::string locate_model(const std::string& name) {
  ProgressLine line;
  const std::string path = resolve_model(name, [&](const TransferProgress& p) {
    if (line.due())
      line.show(p.activity + "  " +
                (p.total > 0 ? progress_bar(p.done, p.total) : format_bytes(p.done)) +
                (p.total > 0 ? " of " + format_bytes(p.total) : ""));
    return true;  // Ctrl-C ends the process; what was fetched is resumed next time
  });
  line.clear();
  return path;
}

GenerationDefaults dialog_defaults(const std::string& model_name, const LLM& llm) {
  GenerationDefaults defaults = llm.generation_defaults();
  const GenerationDefaults listed = recommended_sampling(model_name);
  if (!defaults.temperature) defaults.temperature = listed.temperature;
  if (!defaults.repetition_penalty) defaults.repetition_penalty = listed.repetition_penalty;
  return defaults;
}

std::string format_bytes(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, ++unit;
  return fmt::format("{:.{}f} {}", value, unit == 0 ? 0 : 1, units[unit]);
}

std::string describe(const ModelInfo& info) {
  const double millions = static_cast<double>(info.num_parameters) / 1e6;
  return fmt::format("{}: {}, {:.1f} M parameters, weights {}, KV cache {}, {}", info.name,
                     info.architecture, millions, info.weight_dtype, info.kv_cache_dtype,
                     info.backend);
}

std::string describe(const MemoryPlan& plan) {
  std::string text = fmt::format(
      "weights {}, KV cache {} ({} blocks of {} tokens, context {}), activations {}",
      format_bytes(plan.weights_bytes), format_bytes(plan.kv_cache_bytes), plan.num_kv_blocks,
      plan.block_size, plan.max_model_len, format_bytes(plan.activation_bytes));
  if (plan.free_bytes)
    text += fmt::format(", workspace {}; {} of the {} that are free on the GPU",
                        format_bytes(plan.reserved_bytes), format_bytes(plan.total_bytes()),
                        format_bytes(plan.free_bytes));
  return text;
}

std::string describe_drafts(const EngineStats& stats) {
  if (stats.num_drafts == 0) return "";
  const auto accepted = static_cast<double>(stats.num_accepted_tokens);
  return fmt::format(
      "drafts: {} of {} tokens, {} of them accepted ({:.1f} %), mean acceptance length {:.2f}",
      stats.num_drafts, stats.num_draft_tokens, stats.num_accepted_tokens,
      100 * accepted / static_cast<double>(stats.num_draft_tokens),
      1 + accepted / static_cast<double>(stats.num_drafts));
}

int64_t peak_memory_bytes() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

double seconds_since_start() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace nanovllm::cli
