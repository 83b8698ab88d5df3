// nano-vllm pull NAME: fetches a model into the cache and prints its path.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "hub/hub.h"

namespace nanovllm::cli {
namespace {

struct Options {
  std::string name, revision;
  PullOptions pull;
  bool json = false;
};

// The mean rate since the transfer began; what an earlier pull had already fetched does not count.
class Rate {
 public:
  std::string text(const TransferProgress& p) {
    const auto now = Clock::now();
    if (p.total != total_ || p.done < first_done_) {
      start_ = now;
      first_done_ = p.done;
      total_ = p.total;
    }
    const double seconds = std::chrono::duration<double>(now - start_).count();
    if (seconds < 0.5 || p.done <= first_done_) return "";
    const double rate = static_cast<double>(p.done - first_done_) / seconds;
    return fmt::format("  {}/s  {} left", format_bytes(static_cast<int64_t>(rate)),
                       format_seconds(static_cast<double>(p.total - p.done) / rate));
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_;
  int64_t first_done_ = 0, total_ = -1;
};

int run_pull(const Options& options) {
  if (options.name.empty())
    throw InvalidArgument("NAME", "is missing: a short name, or a hub repository such as org/name");
  std::string name = options.name;
  if (!options.revision.empty()) {
    if (name.find('@') != std::string::npos)
      throw InvalidArgument("--revision", "NAME already states a revision after its '@'");
    name.insert(std::min(name.find(':'), name.size()), "@" + options.revision);
  }
  ProgressLine line;
  Rate rate;
  PullResult result;
  {
    Interrupt interrupt;
    try {
      result = pull(name, options.pull, [&](const TransferProgress& p) {
        if (line.due()) {
          std::string text = p.activity;
          if (p.total > 0) {
            text += "  " + progress_bar(p.done, p.total) + "  " + format_bytes(p.done) + " of " +
                    format_bytes(p.total) + rate.text(p);
          }
          line.show(text);
        }
        return Interrupt::signal() == 0;
      });
    } catch (const Cancelled& e) {
      line.clear();
      fmt::print(stderr, "nano-vllm: {}\n", e.what());
      return kExitInterrupted;
    }
  }
  line.clear();
  if (options.json) {
    const nlohmann::ordered_json report = {{"model", name},
                                           {"path", result.path},
                                           {"files", result.files},
                                           {"bytes_fetched", result.bytes_fetched}};
    write_stdout(report.dump() + "\n");
  } else {
    fmt::print(stderr, "{}\n",
               result.bytes_fetched == 0
                   ? "nothing to fetch, everything is there"
                   : format_bytes(result.bytes_fetched) + " fetched and checked");
    write_stdout(result.path + "\n");
  }
  return kExitOk;
}

}  // namespace

Action define_pull(Flags& flags) {
  auto options = std::make_shared<Options>();
  flags.positional(
      "NAME", "a short name, or a hub repository: org/name, org/name@revision, org/name:file.gguf",
      [options](const std::string&, const std::string& value) { options->name = value; });
  flags.text("--revision", "REVISION", "branch, tag or commit of the repository (main)",
             &options->revision);
  flags.value("--include", "GLOB",
              "fetch the files that match, instead of what the engine reads; may be repeated",
              [options](const std::string&, const std::string& value) {
                options->pull.include.push_back(value);
              });
  flags.toggle("--json", "print a JSON object instead of the path", &options->json);
  flags.note(
      "Repositories come from $HF_ENDPOINT (https://huggingface.co), with $HF_TOKEN for private "
      "and gated ones. Models are "
      "kept under $NANO_VLLM_CACHE (~/.cache/nano-vllm). An interrupted pull goes on where it "
      "stopped; sizes and hashes are "
      "checked. The name is then a MODEL for every other command.");
  return [options] { return run_pull(*options); };
}

}  // namespace nanovllm::cli
