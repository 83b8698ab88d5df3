// The command line: what main and the commands (one file each) share.
//
// A command is a function that fills a Flags table and returns the action to run once the words are
// parsed; options live in a struct that the action keeps alive:
//
//   Action define_example(Flags& flags) {
//     auto options = std::make_shared<ExampleOptions>();
//     flags.text("-o,--output", "FILE", "where to write", &options->output);
//     return [options] { return run_example(*options); };   // the exit code
//   }
//
// Errors are thrown (nanovllm::Error, or InvalidArgument for exit code 2) and printed by main as
// one line. stdout carries results only and is written through Stdout, which turns a full disk into
// an Error and a closed pipe into a quiet exit; everything else goes to stderr.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "cli/flags.h"
#include "nanovllm/error.h"

namespace nanovllm::cli {

using Action = std::function<int()>;

struct Command {
  const char* name;     // "generate", or "bench throughput"
  const char* summary;  // one line of `nano-vllm --help`
  Action (*define)(Flags& flags);
};

Action define_generate(Flags& flags);
Action define_chat(Flags& flags);
Action define_run_batch(Flags& flags);
Action define_serve(Flags& flags);
Action define_inspect(Flags& flags);
Action define_tokenize(Flags& flags);
Action define_template(Flags& flags);
Action define_pull(Flags& flags);
Action define_bench_throughput(Flags& flags);
Action define_bench_latency(Flags& flags);
Action define_bench_serve(Flags& flags);

constexpr int kExitOk = 0, kExitError = 1, kExitUsage = 2, kExitInterrupted = 130,
              kExitBrokenPipe = 141;

// Thrown when the reader of stdout has gone (`| head`): main leaves quietly with kExitBrokenPipe.
struct BrokenPipe {};

// Writes to stdout and flushes. Throws Error for a write that failed, BrokenPipe if nobody reads.
void write_stdout(std::string_view text);

// All of stdin. Throws Error if it is larger than max_bytes or cannot be read.
std::string read_stdin(size_t max_bytes);
// All of a file, or of stdin for "-".
std::string read_text_file(const std::string& path, size_t max_bytes);
// The file anew. Throws Error, also if the disk is full.
void write_text_file(const std::string& path, const std::string& text);

// SIGINT and SIGTERM while an Interrupt lives: the first is only noted and the command stops in its
// own time, the next ends the process at once. Outside of one they end it as usual. One at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  static int signal();  // the signal that came, 0 if none
  static void clear();  // it has been dealt with
  // Sleeps until a signal comes or wake() is called (since the last wait), or for so long; false if
  // the time ran out.
  static bool wait(double seconds);
  static void wake();  // any thread
};

}  // namespace nanovllm::cli
