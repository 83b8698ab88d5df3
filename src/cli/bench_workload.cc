#include "cli/bench_workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "cli/batch_file.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "server/openai_json.h"

namespace nanovllm::cli {
namespace {

using openai::Json;

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

void append_random_ids(std::mt19937_64& random, int64_t count, int64_t vocab,
                       std::vector<int32_t>* ids) {
  for (int64_t i = 0; i < count; ++i)
    ids->push_back(static_cast<int32_t>(uniform(random, 0, vocab - 1)));
}

void add(const LLM& llm, const SamplingParams& params, Prompt prompt, int64_t output,
         const char* flag, Workload* w) {
  const int64_t context = llm.memory_plan().max_model_len,
                total = static_cast<int64_t>(prompt.token_ids.size()) + output;
  if (total > context)
    throw InvalidArgument(
        flag, fmt::format("a request of {} tokens in and out does not fit the context of {}; "
                          "shorten it or raise --max-model-len",
                          total, context));
  w->input_tokens += static_cast<int64_t>(prompt.token_ids.size());
  w->output_tokens += output * params.n;
  w->prompts.push_back(std::move(prompt));
  w->params.push_back(params);
  w->params.back().max_tokens = output;
  w->params.back().ignore_eos = true;
}

Prompt read_prompt(const LLM& llm, const Json& value) {
  if (value.is_string()) return {.token_ids = llm.encode(value.get<std::string>())};
  if (!value.is_array() || value.empty())
    throw InvalidArgument("prompt", "is neither a text nor a list of token ids");
  Prompt prompt;
  for (const Json& id : value)
    prompt.token_ids.push_back(
        static_cast<int32_t>(openai::to_integer("prompt", id, 0, llm.info().vocab_size - 1)));
  return prompt;
}

}  // namespace

std::vector<RandomRequest> random_requests(int64_t vocab, const WorkloadOptions& o, uint64_t seed,
                                           int64_t count, int64_t repetition) {
  std::mt19937_64 lengths(seed), tokens(seed + 1 + static_cast<uint64_t>(repetition));
  std::vector<int32_t> prefix;
  append_random_ids(lengths, o.prefix_len, vocab, &prefix);
  std::vector<RandomRequest> requests;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t in = random_length(lengths, o.input_len, o.min_input_len, o.range_ratio);
    const int64_t out = random_length(lengths, o.output_len, o.min_output_len, o.range_ratio);
    requests.push_back({prefix, out});
    append_random_ids(tokens, in, vocab, &requests.back().prompt);
  }
  return requests;
}

Workload random_workload(const LLM& llm, const WorkloadOptions& o, uint64_t seed, int64_t count,
                         int64_t repetition) {
  Workload w;
  for (RandomRequest& r : random_requests(llm.info().vocab_size, o, seed, count, repetition))
    add(llm, o.params, {.token_ids = std::move(r.prompt)}, r.output_len, "--input-len", &w);
  return w;
}

Workload file_workload(const LLM& llm, const WorkloadOptions& o, int64_t count) {
  LineReader reader(o.dataset_path, openai::kMaxBodyBytes);
  Workload w;
  InputLine line;
  while (static_cast<int64_t>(w.prompts.size()) < count &&
         reader.next(&line, true) == LineReader::Outcome::kLine) {
    try {
      if (line.too_long) throw InvalidArgument("line", "is too long");
      const Json body = openai::parse_body(line.text);
      const openai::Fields fields(body, "line");
      const Json* prompt = fields.get("prompt");
      if (!prompt) throw InvalidArgument("prompt", "is missing");
      const int64_t output = fields.integer("output_tokens").value_or(o.output_len);
      if (output < 1) throw InvalidArgument("output_tokens", "is below 1");
      add(llm, o.params, read_prompt(llm, *prompt), output, "prompt", &w);
    } catch (const Error& error) {
      throw Error(fmt::format("{}: line {}", o.dataset_path, line.number), error.what());
    }
  }
  if (w.prompts.empty()) throw Error(o.dataset_path, "holds no requests");
  return w;
}

void check_range_ratio(double ratio) {
  if (!(ratio >= 0 && ratio < 1))
    throw InvalidArgument("--random-range-ratio",
                          fmt::format("'{}' is not allowed; give a number from 0 up to 1", ratio));
}

RunFigures run_workload(LLM& llm, const Workload& w, const std::string& label) {
  struct Times {
    double first = 0, last = 0;
    int64_t tokens = 0;
  };
  ProgressLine line;
  RunFigures figures;
  std::vector<Times> times(w.prompts.size());
  std::vector<double> token_times;  // of all requests, ascending
  std::vector<uint64_t> ids;
  const double begin = seconds_since_start();
  for (size_t i = 0; i < w.prompts.size(); ++i)
    ids.push_back(llm.add_request(w.prompts[i], w.params[i], [&, i](const StreamEvent& event) {
      if (event.token_id < 0) return;
      Times& t = times[i];
      t.last = seconds_since_start() - begin;
      if (t.tokens++ == 0) t.first = t.last;
      token_times.push_back(t.last);
    }));
  while (llm.has_unfinished_requests() && !Interrupt::signal()) {
    llm.step();
    if (line.due()) {
      const auto done = static_cast<int64_t>(token_times.size());
      line.show(fmt::format("{}{} {} of {} tokens, {:.1f} tokens/s", label,
                            progress_bar(done, w.output_tokens), done, w.output_tokens,
                            static_cast<double>(done) / (seconds_since_start() - begin)));
    }
  }
  figures.elapsed = seconds_since_start() - begin;
  line.clear();
  if (Interrupt::signal()) {
    for (const uint64_t id : ids) llm.cancel(id);
    figures.interrupted = true;
    return figures;
  }
  double all_decode = 0, first_done = figures.elapsed;
  for (const Times& t : times) {
    all_decode = std::max(all_decode, t.first);
    first_done = std::min(first_done, t.last);
    figures.first_token.push_back(t.first);
    if (t.tokens > 1)
      figures.per_output_token.push_back((t.last - t.first) / static_cast<double>(t.tokens - 1));
  }
  if (first_done > all_decode)
    figures.decode_tokens_per_second =
        static_cast<double>(std::ranges::upper_bound(token_times, first_done) -
                            std::ranges::upper_bound(token_times, all_decode)) /
        (first_done - all_decode);
  return figures;
}

}  // namespace nanovllm::cli
