// run-batch: a file of OpenAI requests in, a file of responses out, as `vllm run-batch`. Requests
// are read as they are needed, answered together, and written as they finish; what a run has
// written is not done again by the next.
#include <fmt/format.h>

#include <memory>

#include "cli/batch_file.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "cli/shared_flags.h"
#include "server/openai_service.h"
#include "trace/trace_file.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

struct BatchOptions {
  EngineConfig config;
  std::string input, output, trace;
  bool overwrite = false, quiet = false;
};

// What one line asks for.
struct BatchRequest {
  Json custom_id;  // a string, or null
  openai::Endpoint endpoint = openai::Endpoint::kCompletions;
  Json body;
};

class Batch {
 public:
  Batch(const BatchOptions& options, LineReader& input, ResultFile& output)
      : options_(options), input_(input), output_(output) {}

  // Counts the lines of a regular file, and finds a result that no longer fits its line before
  // anything is run.
  void survey() {
    LineReader reader(options_.input, openai::kMaxBodyBytes);
    InputLine line;
    total_ = 0;
    while (reader.next(&line, true) == LineReader::Outcome::kLine) {
      output_.check_unchanged(line);
      ++total_;
    }
  }
  int64_t total() const { return total_; }

  void run(LLM& llm) {
    started_ = seconds_since_start();
    const auto limit = static_cast<size_t>(4 * llm.config().max_num_seqs);
    bool more = true;
    while (!Interrupt::signal()) {
      while (more && in_flight_ < limit && !Interrupt::signal()) {
        InputLine line;
        const auto outcome = input_.next(&line, /*wait=*/!llm.has_unfinished_requests());
        if (outcome == LineReader::Outcome::kEnd) more = false;
        if (outcome != LineReader::Outcome::kLine) break;
        if (output_.is_done(line)) continue;
        start(llm, line);
        write_ready();
        show_progress(llm);
      }
      if (!llm.has_unfinished_requests()) {
        if (!more) break;
        continue;
      }
      llm.step();
      write_ready();
      show_progress(llm);
    }
    progress_.clear();
  }

  int64_t written() const { return written_; }
  int64_t failed() const { return failed_; }
  double seconds() const { return seconds_since_start() - started_; }

 private:
  // Throws InvalidArgument. request->custom_id is set as soon as it is known.
  static void parse_line(const InputLine& line, BatchRequest* request) {
    if (line.too_long)
      throw InvalidArgument("body",
                            fmt::format("the line is longer than {} bytes", openai::kMaxBodyBytes));
    Json json = openai::parse_body(line.text);
    const openai::Fields fields(json, "line");
    const auto custom_id = fields.string("custom_id");
    if (!custom_id) throw InvalidArgument("custom_id", "is missing");
    request->custom_id = *custom_id;
    if (const auto method = fields.string("method").value_or("POST"); method != "POST")
      throw InvalidArgument("method", "is " + openai::dump(Json(method)) + "; must be \"POST\"");
    const auto url = fields.string("url");
    if (url == "/v1/chat/completions")
      request->endpoint = openai::Endpoint::kChatCompletions;
    else if (url != "/v1/completions")
      throw InvalidArgument("url",
                            (url ? "is " + openai::dump(Json(*url)) : std::string("is missing")) +
                                "; must be /v1/completions or /v1/chat/completions");
    const Json* body = fields.object("body");
    if (!body) throw InvalidArgument("body", "is missing");
    request->body = *body;
  }

  void start(LLM& llm, const InputLine& line) {
    const std::string id = ResultFile::result_id(line);
    BatchRequest request;
    try {
      parse_line(line, &request);
      openai::ApiRequest api = parse_request(request.endpoint, request.body,
                                             llm.generation_defaults(), llm.info().vocab_size);
      if (api.stream) throw InvalidArgument("stream", "is not available in a batch file");
      const size_t sequences =
          std::max<size_t>(1, api.prompts.size()) * static_cast<size_t>(api.params.n);
      submit(llm, std::move(api), options_.config.model,
             [this, id, sequences, custom_id = request.custom_id](const Json& body) {
               in_flight_ -= sequences;
               finish(id, custom_id, 200, body, nullptr);
             });
      in_flight_ += sequences;
    } catch (const Error& e) {
      const Json body = openai::error_body(e, 400);
      finish(id, request.custom_id, 400, body, body["error"]);
    }
  }

  void finish(const std::string& id, const Json& custom_id, int status, const Json& body,
              const Json& error) {
    const Json line = {{"id", id},
                       {"custom_id", custom_id},
                       {"response",
                        {{"status_code", status},
                         {"request_id", "batch-" + openai::random_digits()},
                         {"body", body}}},
                       {"error", error}};
    if (status != 200) ++failed_;
    ready_.push_back(openai::dump(line));
  }

  // Outside of LLM::step(), because writing may throw.
  void write_ready() {
    for (const std::string& line : ready_) {
      output_.write(line);
      ++written_;
    }
    ready_.clear();
  }

  void show_progress(const LLM& llm) {
    if (options_.quiet || !progress_.due()) return;
    const int64_t done = output_.num_done() + written_;
    const EngineStats stats = llm.stats();
    const double elapsed = seconds();
    std::string text =
        total_ >= 0 ? fmt::format("{} {} of {} requests", progress_bar(done, total_), done, total_)
                    : fmt::format("{} requests", done);
    text += fmt::format(", tokens/s {:.1f} in, {:.1f} out",
                        static_cast<double>(stats.prompt_tokens_computed) / elapsed,
                        static_cast<double>(stats.tokens_generated) / elapsed);
    if (total_ >= 0 && written_ > 0)
      text += ", ETA " + format_seconds(elapsed / static_cast<double>(written_) *
                                        static_cast<double>(total_ - done));
    progress_.show(text);
  }

  const BatchOptions& options_;
  LineReader& input_;
  ResultFile& output_;
  ProgressLine progress_;
  std::vector<std::string> ready_;  // finished lines, to be written
  size_t in_flight_ = 0;            // sequences
  int64_t total_ = -1, written_ = 0, failed_ = 0;
  double started_ = 0;
};

int run_batch(const BatchOptions& options) {
  if (is_worker_rank()) return run_worker_rank(options.config);
  if (options.input.empty())
    throw InvalidArgument("--input-file", "is missing; give -i FILE (- is stdin)");
  if (options.output.empty())
    throw InvalidArgument("--output-file", "is missing; give -o FILE (- is stdout)");
  options.config.validate();
  LineReader input(options.input, openai::kMaxBodyBytes);
  if (input.is_same_file(options.output))
    throw InvalidArgument("--output-file", "is the input file");
  ResultFile output(options.output, options.overwrite);
  if (output.num_done() > 0 && !options.quiet)
    fmt::print(stderr, "{}: {} results are there already and are kept\n", options.output,
               output.num_done());

  Batch batch(options, input, output);
  if (input.is_regular_file()) batch.survey();
  if (batch.total() >= 0 && batch.total() == output.num_done()) {
    if (!options.quiet) fmt::print(stderr, "nothing is left to do\n");
    return kExitOk;
  }
  TraceFile trace(options.trace);
  LLM llm = load_model(options.config, options.quiet);
  trace.watch(llm);
  Interrupt interrupt;
  batch.run(llm);
  trace.close();

  const EngineStats stats = llm.stats();
  const int64_t done = output.num_done() + batch.written();
  if (const int signal = Interrupt::signal()) {
    fmt::print(stderr,
               "interrupted: {}{} results are written; the same command goes on from there\n", done,
               batch.total() >= 0 ? fmt::format(" of {}", batch.total()) : "");
    return 128 + signal;
  }
  if (!options.quiet)
    fmt::print(stderr,
               "{} requests in {}, {} of them refused; {} prompt tokens ({} from the prefix "
               "cache), {} tokens out, "
               "{:.1f} tokens/s; {} preemptions; peak memory {}\n",
               batch.written(), format_seconds(batch.seconds()), batch.failed(),
               stats.prompt_tokens_computed + stats.prompt_tokens_cached,
               stats.prompt_tokens_cached, stats.tokens_generated,
               static_cast<double>(stats.tokens_generated) / std::max(1e-9, batch.seconds()),
               stats.preemptions, format_bytes(peak_memory_bytes()));
  if (const std::string drafts = describe_drafts(stats); !options.quiet && !drafts.empty())
    fmt::print(stderr, "{}\n", drafts);
  return kExitOk;
}

}  // namespace

Action define_run_batch(Flags& flags) {
  auto o = std::make_shared<BatchOptions>();
  add_model_flags(flags, &o->config);
  flags.text("-i,--input-file", "FILE",
             "requests, one JSON object a line: custom_id, method, url, body; - is stdin",
             &o->input);
  flags.text("-o,--output-file", "FILE",
             "responses, one JSON object a line, in the order they finish; - is stdout",
             &o->output);
  flags.toggle("--overwrite", "start again, even if the output file holds results", &o->overwrite);
  add_trace_flag(flags, &o->trace);
  flags.toggle("-q,--quiet", "no progress and no figures on stderr", &o->quiet);
  add_engine_seed(flags, &o->config);
  add_engine_flags(flags, &o->config);
  flags.note(
      "urls: /v1/completions and /v1/chat/completions. A line that cannot be answered gives a "
      "result with an error, "
      "and the run goes on. Lines are matched to results by custom_id; one that occurs twice is "
      "answered twice.");
  flags.note(
      "An interrupted run is resumed by the same command: whole results in the output file are "
      "kept (a partial last "
      "line is cut off) and only the other lines are run. --overwrite starts again.");
  return [o] { return run_batch(*o); };
}

}  // namespace nanovllm::cli
