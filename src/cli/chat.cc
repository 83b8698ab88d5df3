// chat: turns of a conversation, from a terminal or a pipe. Ctrl-C stops the answer; the
// conversation goes on.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/shared_flags.h"
#include "server/openai_json.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

struct ChatOptions {
  EngineConfig config;
  SamplingFlags sampling;
  std::string system;
  bool json = false, quiet = false;
};

// Lines of stdin, read so that Ctrl-C at the prompt is seen.
class TurnReader {
 public:
  enum class Outcome { kLine, kEnd, kInterrupted };

  Outcome next(std::string* line) {
    while (true) {
      if (const size_t end = buffer_.find('\n'); end != std::string::npos) {
        *line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        return Outcome::kLine;
      }
      if (buffer_.size() > kMaxLine) throw Error("standard input", "a line is longer than 16 MiB");
      char chunk[4096];
      const ssize_t n = ::read(STDIN_FILENO, chunk, sizeof chunk);
      if (n < 0 && errno == EINTR && Interrupt::signal()) return Outcome::kInterrupted;
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw Error("standard input", std::strerror(errno));
      if (n > 0) {
        buffer_.append(chunk, static_cast<size_t>(n));
        continue;
      }
      if (buffer_.empty()) return Outcome::kEnd;
      line->swap(buffer_);  // the last line has no newline
      buffer_.clear();
      return Outcome::kLine;
    }
  }

 private:
  static constexpr size_t kMaxLine = size_t{16} << 20;
  std::string buffer_;
};

class Chat {
 public:
  Chat(LLM& llm, const ChatOptions& options)
      : llm_(llm),
        options_(options),
        params_(options.sampling.resolve(dialog_defaults(options.config.model, llm))) {
    reset(options.system);
  }

  // The exit code.
  int run() {
    Interrupt interrupt;
    const bool terminal = isatty(STDIN_FILENO);
    if (terminal)
      fmt::print(stderr, "Enter sends. Ctrl-C stops an answer. /reset, /system TEXT, /exit.\n");
    bool leaving = false;  // Ctrl-C was pressed at the prompt, and nothing since
    std::string line;
    while (true) {
      if (terminal) fmt::print(stderr, "> ");
      fflush(stderr);
      switch (reader_.next(&line)) {
        case TurnReader::Outcome::kEnd:
          if (terminal) fmt::print(stderr, "\n");
          return kExitOk;
        case TurnReader::Outcome::kInterrupted:
          if (Interrupt::signal() != SIGINT) return 128 + Interrupt::signal();
          if (terminal) fmt::print(stderr, "\n");
          if (leaving || !terminal) return kExitInterrupted;
          fmt::print(stderr, "Ctrl-C again, or /exit, leaves.\n");
          leaving = true;
          Interrupt::clear();
          continue;
        case TurnReader::Outcome::kLine:
          break;
      }
      leaving = false;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line == "/exit" || line == "/quit") return kExitOk;
      if (line == "/reset")
        reset(system_);
      else if (line.starts_with("/system"))
        reset(line.size() > 8 ? line.substr(8) : "");
      else if (line.starts_with("/"))
        fmt::print(stderr, "There is /reset, /system TEXT and /exit.\n");
      else if (line.find_first_not_of(" \t") != std::string::npos)
        answer(line);
      if (Interrupt::signal() && Interrupt::signal() != SIGINT) return 128 + Interrupt::signal();
      Interrupt::clear();
    }
  }

 private:
  void reset(const std::string& system) {
    system_ = system;
    messages_ = Json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  void answer(const std::string& text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    Prompt prompt;
    try {
      prompt.token_ids = llm_.encode(llm_.apply_chat_template(openai::dump(messages_)), false);
      check_fits(static_cast<int64_t>(prompt.token_ids.size()));
      stream(prompt);
    } catch (const Error& e) {  // too long, or the template refuses: the conversation stands as it
                                // was before
      messages_.erase(messages_.size() - 1);
      if (!isatty(STDIN_FILENO)) throw;
      fmt::print(stderr, "{}\n", e.what());
    }
  }

  void check_fits(int64_t tokens) const {
    const int64_t limit = llm_.memory_plan().max_model_len;
    if (tokens >= limit)
      throw Error("the conversation",
                  fmt::format("takes {} tokens and the context holds {}; /reset starts a new one, "
                              "--max-model-len makes it longer",
                              tokens, limit));
  }

  void stream(const Prompt& prompt) {
    std::string ready, answer;
    int64_t tokens = 0;
    FinishReason reason = FinishReason::kNone;
    const double begin = seconds_since_start();
    double first = begin;
    const uint64_t id = llm_.add_request(prompt, params_, [&](const StreamEvent& event) {
      if (event.token_id >= 0 && tokens++ == 0) first = seconds_since_start();
      ready += event.text;
      if (event.request_finished) reason = event.finish_reason;
    });
    while (llm_.has_unfinished_requests()) {
      if (Interrupt::signal())
        llm_.cancel(id);
      else
        llm_.step();
      answer += ready;
      if (!options_.json) write_stdout(ready);
      ready.clear();
    }
    if (options_.json) {
      write_stdout(openai::dump({{"role", "assistant"},
                                 {"content", answer},
                                 {"finish_reason", to_string(reason)},
                                 {"prompt_tokens", prompt.token_ids.size()},
                                 {"completion_tokens", tokens}}) +
                   "\n");
    } else if (answer.empty() || answer.back() != '\n') {
      write_stdout("\n");
    }
    messages_.push_back({{"role", "assistant"}, {"content", answer}});
    const double end = seconds_since_start();
    if (!options_.quiet)
      fmt::print(stderr, "({}{} + {} tokens, first after {:.2f} s{})\n",
                 reason == FinishReason::kAbort    ? "stopped; "
                 : reason == FinishReason::kLength ? "cut at the limit; "
                                                   : "",
                 prompt.token_ids.size(), tokens, first - begin,
                 tokens > 1 ? fmt::format(", {:.1f} tokens/s",
                                          static_cast<double>(tokens - 1) / (end - first))
                            : "");
  }

  LLM& llm_;
  const ChatOptions& options_;
  const SamplingParams params_;
  std::string system_;
  Json messages_;
  TurnReader reader_;
};

int run_chat(const ChatOptions& options) {
  if (is_worker_rank()) return run_worker_rank(options.config);
  options.sampling.check();
  LLM llm = load_model(options.config, options.quiet);
  if (!llm.info().has_chat_template)
    throw Error(options.config.model,
                "has no chat template, so it cannot chat; 'nano-vllm generate' continues text");
  return Chat(llm, options).run();
}

}  // namespace

Action define_chat(Flags& flags) {
  auto options = std::make_shared<ChatOptions>();
  add_model_flags(flags, &options->config);
  flags.text("--system", "TEXT", "a system message at the beginning", &options->system);
  flags.toggle("--json", "one JSON object an answer on stdout instead of text", &options->json);
  flags.toggle("-q,--quiet", "no figures on stderr", &options->quiet);
  add_sampling_flags(flags, &options->sampling, &options->config, -1);
  add_engine_flags(flags, &options->config);
  flags.note(
      "Each line of stdin is a turn. /reset forgets the conversation, /system TEXT starts a new "
      "one with that system "
      "message, /exit or the end of the input leaves. Ctrl-C stops an answer; at the prompt, twice "
      "leaves.");
  return [options] { return run_chat(*options); };
}

}  // namespace nanovllm::cli
