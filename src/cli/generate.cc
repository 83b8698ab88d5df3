// generate: answers one or several prompts together and streams the text to stdout in the order of
// the prompts.
#include <fmt/format.h>
#include <sys/stat.h>

#include <memory>

#include "cli/cli.h"
#include "cli/load.h"
#include "cli/shared_flags.h"
#include "server/openai_response.h"
#include "trace/trace_file.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

struct GenerateOptions {
  EngineConfig config;
  SamplingFlags sampling;
  bool model_given = false;
  std::vector<std::string> prompts;
  std::string system, trace;
  bool raw = false, json = false, quiet = false;
};

// Text of several completions that grow at the same time, let out in order: the first unfinished
// one streams, those behind it wait.
class OrderedText {
 public:
  explicit OrderedText(size_t count) : slots_(count) {}

  void add(size_t slot, std::string_view text) { slots_[slot].text += text; }
  void finish(size_t slot) { slots_[slot].finished = true; }

  // What may be printed now.
  std::string take() {
    std::string out;
    for (; current_ < slots_.size(); ++current_) {
      Slot& slot = slots_[current_];
      if (!slot.text.empty()) ends_line_ = slot.text.back() == '\n';
      out += slot.text;
      slot.text.clear();
      if (!slot.finished) break;
      if (!ends_line_) out += '\n';
      ends_line_ = false;
    }
    return out;
  }
  bool mid_line() const { return current_ < slots_.size() && !ends_line_; }

 private:
  struct Slot {
    std::string text;
    bool finished = false;
  };
  std::vector<Slot> slots_;
  size_t current_ = 0;
  bool ends_line_ = false;
};

bool names_a_model(const std::string& word) {
  struct stat info {};
  if (word.empty() || stat(word.c_str(), &info) != 0) return false;
  return S_ISDIR(info.st_mode) ? stat((word + "/config.json").c_str(), &info) == 0
                               : word.ends_with(".gguf");
}

void check(const GenerateOptions& options) {
  if (options.prompts.empty())
    throw InvalidArgument("--prompt", "is missing; give -p TEXT, or -f FILE (- is stdin)");
  // `generate -p TEXT model.gguf`: -p takes every word up to the next flag.
  if (!options.model_given && options.prompts.size() > 1 && names_a_model(options.prompts.back()))
    throw InvalidArgument(
        "--prompt",
        "'" + options.prompts.back() +
            "' is a model but stands among the prompts; put it before -p or give --model");
  options.sampling.check();
}

// One line a completion.
std::string json_lines(const LLM& llm, const GenerateOptions& options, const std::string& prompt,
                       const SamplingParams& params, const RequestOutput& output) {
  openai::ApiRequest request;
  request.params = params;
  request.top_logprobs = params.logprobs.value_or(0);
  request.return_prompt_logprobs = params.prompt_logprobs.has_value();
  request.return_token_ids = true;
  request.prompts = {Prompt{.text = prompt}};
  const openai::ResponseContext context = {
      .model = options.config.model,
      .token_text = [&llm](int32_t id) { return llm.token_text(id); },
      .decode = [](const std::vector<int32_t>&) { return std::string(); }};
  const Json body = completion_body(request, context, {&output, 1});
  std::string lines;
  for (const Json& choice : body["choices"]) {
    Json line = {{"prompt", prompt}};
    line.update(choice);
    lines += openai::dump(line) + "\n";
  }
  return lines;
}

struct Progress {
  int64_t prompt_tokens = 0, cached_tokens = 0, answer_tokens = 0;
  double first_token_at = 0;  // seconds since the process started
};

void print_figures(const LLM& llm, const Progress& p, double queued_at, double finished_at) {
  const double prefill = p.first_token_at - queued_at, decode = finished_at - p.first_token_at;
  fmt::print(stderr, "prompt: {} tokens{}", p.prompt_tokens,
             p.cached_tokens ? fmt::format(" ({} from the prefix cache)", p.cached_tokens) : "");
  if (prefill > 0)
    fmt::print(stderr, ", {:.1f} tokens/s",
               static_cast<double>(p.prompt_tokens - p.cached_tokens) / prefill);
  fmt::print(stderr, "\nanswer: {} tokens", p.answer_tokens);
  if (p.answer_tokens > 1 && decode > 0)
    fmt::print(stderr, ", {:.1f} tokens/s", static_cast<double>(p.answer_tokens - 1) / decode);
  if (const std::string drafts = describe_drafts(llm.stats()); !drafts.empty())
    fmt::print(stderr, "\n{}", drafts);
  fmt::print(stderr, "\nfirst token {:.2f} s after the start, all done after {:.2f} s\n",
             p.first_token_at, finished_at);
  const MemoryPlan& plan = llm.memory_plan();
  fmt::print(stderr, "peak memory {} (weights {}, KV cache {}, activations {})\n",
             format_bytes(peak_memory_bytes()), format_bytes(plan.weights_bytes),
             format_bytes(plan.kv_cache_bytes), format_bytes(plan.activation_bytes));
}

// The chat template, if the model has one and the user did not say --raw.
Prompt make_prompt(const LLM& llm, const GenerateOptions& options, const std::string& text) {
  if (options.raw || !llm.info().has_chat_template) return {.text = text};
  Json messages = Json::array();
  if (!options.system.empty())
    messages.push_back({{"role", "system"}, {"content", options.system}});
  messages.push_back({{"role", "user"}, {"content", text}});
  return {.text = llm.apply_chat_template(openai::dump(messages)), .add_special_tokens = false};
}

int run_generate(GenerateOptions& options) {
  if (is_worker_rank()) return run_worker_rank(options.config);
  check(options);
  TraceFile trace(options.trace);
  LLM llm = load_model(options.config, options.quiet);
  trace.watch(llm);
  if (!llm.info().has_tokenizer)
    throw Error(options.config.model, "has no tokenizer; run token ids through run-batch");
  const SamplingParams params =
      options.sampling.resolve(dialog_defaults(options.config.model, llm));

  Interrupt interrupt;
  const size_t n = static_cast<size_t>(params.n);
  OrderedText printer(options.prompts.size() * (options.json ? 1 : n));
  Progress progress;
  std::vector<uint64_t> ids;
  const double queued_at = seconds_since_start();
  for (size_t i = 0; i < options.prompts.size(); ++i) {
    auto on_event = [&, i](const StreamEvent& event) {
      if (event.token_id >= 0) {
        if (progress.answer_tokens++ == 0) progress.first_token_at = seconds_since_start();
      }
      const size_t slot = i * n + static_cast<size_t>(event.index);
      if (!options.json) {
        printer.add(slot, event.text);
        if (event.finish_reason != FinishReason::kNone &&
            event.finish_reason != FinishReason::kAbort)
          printer.finish(slot);
      }
      if (!event.request_finished) return;
      progress.prompt_tokens += static_cast<int64_t>(event.output->prompt_token_ids.size());
      progress.cached_tokens += event.output->num_cached_tokens;
      if (options.json && event.finish_reason != FinishReason::kAbort) {
        printer.add(i, json_lines(llm, options, options.prompts[i], params, *event.output));
        printer.finish(i);
      }
    };
    ids.push_back(llm.add_request(make_prompt(llm, options, options.prompts[i]), params, on_event));
  }
  while (llm.has_unfinished_requests() && !Interrupt::signal()) {
    llm.step();
    write_stdout(printer.take());
  }
  const int signal = Interrupt::signal();
  if (signal) {
    for (const uint64_t id : ids) llm.cancel(id);
    write_stdout(printer.take());
    if (!options.json && printer.mid_line()) write_stdout("\n");
  }
  if (progress.answer_tokens == 0) progress.first_token_at = seconds_since_start();
  trace.close();
  if (!options.quiet) print_figures(llm, progress, queued_at, seconds_since_start());
  return signal ? 128 + signal : kExitOk;
}

}  // namespace

Action define_generate(Flags& flags) {
  auto options = std::make_shared<GenerateOptions>();
  GenerateOptions* o = options.get();
  add_model_flags(flags, &o->config, &o->model_given);
  flags.values("-p,--prompt", "TEXT",
               "what to answer; several are answered together, printed in order",
               [o](const std::string&, const std::string& value) { o->prompts.push_back(value); });
  flags.value("-f,--file", "FILE", "a prompt from a file; - is stdin",
              [o](const std::string&, const std::string& value) {
                o->prompts.push_back(read_text_file(value, size_t{64} << 20));
              });
  flags.text("--system", "TEXT", "a system message before the prompt", &o->system);
  flags.toggle("--no-chat-template,--raw",
               "continue the text as it stands instead of answering it as a chat", &o->raw);
  flags.toggle("--json", "one JSON object a completion on stdout instead of text", &o->json);
  add_trace_flag(flags, &o->trace);
  flags.toggle("-q,--quiet", "no figures on stderr", &o->quiet);
  SamplingParams* p = &o->sampling.params;
  add_sampling_flags(flags, &o->sampling, &o->config, 256);
  flags.integer("-n,--n", "completions of each prompt (default: 1)", &p->n);
  auto optional_integer = [&](const char* name, const char* help, std::optional<int64_t>* target) {
    flags.value(name, "N", help, [target](const std::string& flag, const std::string& value) {
      *target = parse_integer(flag, value, 0);
    });
  };
  optional_integer("--logprobs", "with --json: logprobs of the tokens and the N likeliest others",
                   &p->logprobs);
  optional_integer("--prompt-logprobs", "with --json: the same for the prompt",
                   &p->prompt_logprobs);
  add_engine_flags(flags, &o->config);
  flags.note(
      "A prompt is put through the model's chat template if it has one. -p takes every word up to "
      "the next flag, so MODEL "
      "stands before it. Ctrl-C stops and keeps what was printed.");
  return [options] { return run_generate(*options); };
}

}  // namespace nanovllm::cli
