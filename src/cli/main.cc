// nano-vllm COMMAND: finds the command, parses its flags, runs it, and turns errors into one line
// and an exit code.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "cli/cli.h"

namespace nanovllm::cli {
namespace {

constexpr Command kCommands[] = {
    {"generate", "answer one or several prompts and stream the text to stdout", define_generate},
    {"chat", "talk to the model in the terminal", define_chat},
    {"run-batch", "run a file of OpenAI requests, JSON lines in and out", define_run_batch},
    {"serve", "OpenAI's API over HTTP", define_serve},
    {"bench throughput", "tokens per second of many requests at once", define_bench_throughput},
    {"bench latency", "seconds for one batch of equal requests", define_bench_latency},
    {"bench serve", "load on a running server: throughput, first tokens, gaps between tokens",
     define_bench_serve},
    {"inspect", "what a model is and how much memory it will take, without loading it",
     define_inspect},
    {"tokenize", "text to token ids and back", define_tokenize},
    {"template", "render a Jinja chat template", define_template},
    {"pull", "fetch a model, by its short name or from a hub", define_pull},
};

std::string overview() {
  std::string out =
      "Usage: nano-vllm COMMAND [OPTIONS]\n\nRuns large language models on this "
      "machine.\n\nCommands:\n";
  for (const Command& command : kCommands) {
    std::string name = std::string("  ") + command.name;
    name.resize(22, ' ');
    out += name + command.summary + "\n";
  }
  return out +
         "\n'nano-vllm COMMAND --help' lists a command's options. --version prints the version.\n";
}

std::string command_names() {
  std::string out;
  for (const Command& command : kCommands)
    out += std::string(out.empty() ? "" : ", ") + command.name;
  return out;
}

// The command whose words begin `args`; null if none.
const Command* find_command(const std::vector<std::string>& args, size_t* words) {
  for (const Command& command : kCommands) {
    if (!args.empty() && args[0] == command.name) return *words = 1, &command;
    if (args.size() > 1 && args[0] + " " + args[1] == command.name) return *words = 2, &command;
  }
  return nullptr;
}

int run(const std::vector<std::string>& args) {
  if (args.empty()) {
    fputs(overview().c_str(), stderr);
    return kExitUsage;
  }
  if (args[0] == "--help" || args[0] == "-h" || args[0] == "help")
    return write_stdout(overview()), kExitOk;
  if (args[0] == "--version") return write_stdout("nano-vllm " NANO_VLLM_VERSION "\n"), kExitOk;
  size_t words = 0;
  const Command* command = find_command(args, &words);
  if (!command) {
    const bool bench = args[0] == "bench";
    if (bench && args.size() > 1 && (args[1] == "--help" || args[1] == "-h"))
      return write_stdout(overview()), kExitOk;
    throw InvalidArgument(bench && args.size() > 1 ? "bench " + args[1] : args[0],
                          "no such command; there are " + command_names());
  }
  Flags flags(std::string("nano-vllm ") + command->name, std::string(command->summary) + ".");
  const Action action = command->define(flags);
  switch (flags.parse(std::span(args).subspan(words))) {
    case Flags::Outcome::kHelp:
      return write_stdout(flags.help()), kExitOk;
    case Flags::Outcome::kVersion:
      return write_stdout("nano-vllm " NANO_VLLM_VERSION "\n"), kExitOk;
    case Flags::Outcome::kRun:
      break;
  }
  return action();
}

// One line, whatever the message holds.
void print_error(std::string message) {
  for (char& c : message)
    if (c == '\n' || c == '\r') c = ' ';
  if (isatty(STDERR_FILENO)) fputs("\r\x1b[K", stderr);  // over a progress bar
  fprintf(stderr, "nano-vllm: error: %s\n", message.c_str());
}

int guarded(const std::vector<std::string>& args) {
  try {
    return run(args);
  } catch (const BrokenPipe&) {
    return kExitBrokenPipe;
  } catch (const InvalidArgument& e) {
    print_error(e.what());
    return kExitUsage;
  } catch (const std::bad_alloc&) {
    print_error("out of memory");
    return kExitError;
  } catch (const std::exception& e) {
    print_error(e.what());
    return kExitError;
  }
}

}  // namespace
}  // namespace nanovllm::cli

int main(int argc, char** argv) {
  signal(SIGPIPE,
         SIG_IGN);  // a closed pipe is a failed write, which write_stdout and libcurl handle
  return nanovllm::cli::guarded(std::vector<std::string>(argv + 1, argv + argc));
}
