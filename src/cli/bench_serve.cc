// bench serve: puts load on a running server, this one or any other that speaks OpenAI's API, and
// reports what its users would see. Flags, table and JSON are those of `vllm bench serve`.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <memory>
#include <random>
#include <sstream>

#include "cli/bench_serve_report.h"
#include "cli/bench_workload.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "client/load_generator.h"
#include "nanovllm/inspect.h"
#include "server/openai_json.h"

namespace nanovllm::cli {
namespace {

using client::LoadOptions;
using client::LoadOutcome;
using client::LoadRequest;
using openai::Json;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct ServeOptions {
  std::string base_url, host = "127.0.0.1", endpoint = "/v1/completions", dataset_name = "random";
  std::string model, tokenizer, request_rate = "inf", extra_body = "{}";
  std::string percentile_metrics = "ttft,tpot,itl", metric_percentiles = "99";
  std::string result_dir = ".", result_filename, output_json;
  int64_t port = 8000, num_prompts = 1000, max_concurrency = 0, num_warmups = 0, vocab_size = 0;
  int64_t seed = 0;
  double burstiness = 1, temperature = 0;
  bool ignore_eos = false, save_result = false, save_detailed = false, json = false;
  std::vector<std::string> headers;
  WorkloadOptions workload{.input_len = 1024};

  bool chat() const { return endpoint.ends_with("/chat/completions"); }
};

// What the flags say, checked.
struct Plan {
  LoadOptions load;
  double rate = kInfinity;
  Json extra_body;
  ServeReportOptions report;
};

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');)
    if (!part.empty()) parts.push_back(part);
  return parts;
}

std::string header(const std::string& text) {  // NAME=VALUE
  const size_t equals = text.find('=');
  const auto bad = [](unsigned char c) { return c < ' ' || c == 127; };
  if (equals == std::string::npos || equals == 0 || std::ranges::any_of(text, bad))
    throw InvalidArgument("--header", "'" + text + "' is not allowed; give NAME=VALUE");
  return text.substr(0, equals) + ": " + text.substr(equals + 1);
}

Plan check(const ServeOptions& o) {
  Plan plan;
  if (o.dataset_name != "random")
    throw InvalidArgument("--dataset-name",
                          "'" + o.dataset_name + "' is not allowed; there is random");
  if (!o.endpoint.starts_with('/') || !(o.chat() || o.endpoint.ends_with("/completions")))
    throw InvalidArgument("--endpoint", "'" + o.endpoint +
                                            "' is not allowed; give /v1/completions or "
                                            "/v1/chat/completions");
  check_range_ratio(o.workload.range_ratio);
  if (o.request_rate != "inf") plan.rate = parse_number("--request-rate", o.request_rate);
  if (!(plan.rate > 0)) throw InvalidArgument("--request-rate", "must be above 0, or inf");
  if (!(o.burstiness > 0)) throw InvalidArgument("--burstiness", "must be above 0");
  if (!(o.temperature >= 0)) throw InvalidArgument("--temperature", "must not be below 0");
  for (const std::string& metric : split_list(o.percentile_metrics)) {
    if (metric != "ttft" && metric != "tpot" && metric != "itl" && metric != "e2el")
      throw InvalidArgument("--percentile-metrics",
                            "'" + metric + "' is not allowed; there are ttft, tpot, itl and e2el");
    plan.report.metrics.push_back(metric);
  }
  for (const std::string& text : split_list(o.metric_percentiles)) {
    plan.report.percentiles.push_back(parse_number("--metric-percentiles", text));
    if (plan.report.percentiles.back() < 0 || plan.report.percentiles.back() > 100)
      throw InvalidArgument("--metric-percentiles", "'" + text + "' is not between 0 and 100");
  }
  plan.report.detailed = o.save_detailed;
  plan.extra_body = openai::parse_body(o.extra_body);
  if (!plan.extra_body.is_object()) throw InvalidArgument("--extra-body", "is no JSON object");

  const std::string url =
      o.base_url.empty() ? fmt::format("http://{}:{}", o.host, o.port) : o.base_url;
  plan.load.address = client::ServerAddress::parse("--base-url", url);
  plan.load.max_concurrency = o.max_concurrency;
  for (const std::string& text : o.headers) plan.load.headers.push_back(header(text));
  const char* key = std::getenv("OPENAI_API_KEY");
  if (key && *key) plan.load.headers.push_back(header(std::string("Authorization=Bearer ") + key));
  return plan;
}

// One request on its own; throws Error if it fails.
LoadOutcome send_one(const Plan& plan, const LoadRequest& request) {
  LoadOptions options = plan.load;
  options.on_progress = [](int64_t, int64_t) { return !Interrupt::signal(); };
  LoadOutcome outcome = client::run_load(options, {request})[0];
  if (!outcome.ok) throw Error(plan.load.address.text() + request.path, outcome.error);
  return outcome;
}

// The first model that the server names, and the size of its vocabulary if it tells (llama-server
// and nano-vllm do).
void ask_for_model(const Plan& plan, ServeOptions* o) {
  if (!o->model.empty() && (o->vocab_size > 0 || o->chat())) return;
  const std::string body = send_one(plan, {.path = "/v1/models"}).body;
  const Json models = Json::parse(body, nullptr, false);
  if (!models.is_object() || !models.contains("data") || !models["data"].is_array() ||
      models["data"].empty() || !models["data"][0].is_object())
    throw Error(plan.load.address.text() + "/v1/models", "names no model; give --model");
  const Json& first = models["data"][0];
  if (o->model.empty()) o->model = first.value("id", "");
  if (o->vocab_size == 0 && first.contains("meta") && first["meta"].is_object())
    o->vocab_size = first["meta"].value("n_vocab", int64_t{0});
}

// Ids below this are drawn. Every vocabulary in use has a thousand tokens.
int64_t vocabulary(const ServeOptions& o) {
  if (o.vocab_size > 0) return o.vocab_size;
  if (o.tokenizer.empty()) return 1000;
  EngineConfig config;
  config.model = locate_model(o.tokenizer);
  return inspect_model(config).info.vocab_size;
}

// Words that are one token nearly everywhere.
std::string random_text(const std::vector<int32_t>& ids) {
  static constexpr const char* kWords[] = {
      "time",   "year",   "people", "way",    "day",  "man",   "thing", "woman", "life",  "child",
      "world",  "school", "state",  "family", "hand", "part",  "place", "case",  "week",  "work",
      "point",  "home",   "water",  "room",   "area", "money", "story", "fact",  "month", "lot",
      "right",  "study",  "book",   "eye",    "job",  "word",  "side",  "kind",  "head",  "house",
      "friend", "power",  "hour",   "game",   "line", "end",   "law",   "car",   "city",  "name",
      "team",   "minute", "idea",   "body",   "back", "face",  "level", "door",  "art",   "war",
      "party",  "result", "change", "morning"};
  std::string text;
  for (const int32_t id : ids) text += std::string(" ") + kWords[id % std::ssize(kWords)];
  return text.substr(1);
}

LoadRequest make_request(const ServeOptions& o, const Plan& plan, const RandomRequest& random) {
  Json body = {{"model", o.model}};
  if (o.chat())
    body["messages"] = {{{"role", "user"}, {"content", random_text(random.prompt)}}};
  else
    body["prompt"] = random.prompt;
  body[o.chat() ? "max_completion_tokens" : "max_tokens"] = random.output_len;
  body["temperature"] = o.temperature;
  body["stream"] = true;
  body["stream_options"] = {{"include_usage", true}};
  if (o.ignore_eos) body["ignore_eos"] = true;
  for (const auto& [key, value] : plan.extra_body.items()) body[key] = value;
  return {.path = o.endpoint, .body = openai::dump(body)};
}

// Poisson arrivals for a burstiness of 1, a gamma distribution of the gaps else; stretched so that
// all of them take as long as the rate says.
void set_start_times(double rate, double burstiness, uint64_t seed,
                     std::vector<LoadRequest>* requests) {
  if (!std::isfinite(rate)) return;
  std::mt19937_64 random(seed);
  std::gamma_distribution<double> gap(burstiness, 1 / (rate * burstiness));
  double time = 0;
  for (LoadRequest& request : *requests) request.start = time += gap(random);
  const double stretch = time > 0 ? static_cast<double>(requests->size()) / rate / time : 1;
  for (LoadRequest& request : *requests) request.start *= stretch;
}

Json describe_run(const ServeOptions& o, const Plan& plan) {
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  std::strftime(date, sizeof date, "%Y%m%d-%H%M%S", localtime_r(&now, &parts));
  Json result = {{"date", date},
                 {"backend", o.chat() ? "openai-chat" : "openai"},
                 {"model_id", o.model},
                 {"tokenizer_id", o.tokenizer.empty() ? o.model : o.tokenizer},
                 {"num_prompts", o.num_prompts},
                 {"request_rate", nullptr},
                 {"burstiness", o.burstiness},
                 {"max_concurrency", nullptr}};
  result["request_rate"] = std::isfinite(plan.rate) ? Json(plan.rate) : Json("inf");
  if (o.max_concurrency > 0) result["max_concurrency"] = o.max_concurrency;
  return result;
}

void write_results(const ServeOptions& o, const Json& result) {
  const std::string text = result.dump(4, ' ', false, Json::error_handler_t::replace) + "\n";
  if (!o.output_json.empty()) write_text_file(o.output_json, text);
  if (!o.save_result && !o.save_detailed) return;
  std::string name = o.result_filename;
  if (name.empty()) {
    name = fmt::format("{}-{}qps-{}-{}.json", result["backend"].get<std::string>(), o.request_rate,
                       o.model, result["date"].get<std::string>());
    std::ranges::replace(name, '/', '_');
  }
  write_text_file(o.result_dir + "/" + name, text);
}

// The first complaints, once each.
void print_errors(const std::vector<LoadOutcome>& outcomes) {
  std::vector<std::string> seen;
  for (const LoadOutcome& outcome : outcomes) {
    if (outcome.ok || std::ranges::find(seen, outcome.error) != seen.end()) continue;
    seen.push_back(outcome.error);
    if (seen.size() <= 5) fprintf(stderr, "a request failed: %s\n", outcome.error.c_str());
  }
}

int run_serve(ServeOptions o) {
  Plan plan = check(o);
  Interrupt interrupt;
  ask_for_model(plan, &o);
  // The first requests only show that the server works, and warm it up.
  const int64_t extra = 1 + o.num_warmups;
  const auto random = random_requests(vocabulary(o), o.workload, static_cast<uint64_t>(o.seed),
                                      o.num_prompts + extra);
  std::vector<LoadRequest> requests, warmups;
  std::vector<int64_t> input_lens;
  int64_t planned_tokens = 0;
  for (size_t i = 0; i < random.size(); ++i) {
    const bool warm = i < static_cast<size_t>(extra);
    (warm ? warmups : requests).push_back(make_request(o, plan, random[i]));
    if (warm) continue;
    input_lens.push_back(static_cast<int64_t>(random[i].prompt.size()));
    planned_tokens += random[i].output_len;
  }
  for (const LoadRequest& request : warmups) send_one(plan, request);
  set_start_times(plan.rate, o.burstiness, static_cast<uint64_t>(o.seed), &requests);

  ProgressLine line;
  plan.load.on_progress = [&](int64_t done, int64_t running) {
    if (line.due())
      line.show(fmt::format("{} {} of {} requests done, {} running",
                            progress_bar(done, o.num_prompts), done, o.num_prompts, running));
    return !Interrupt::signal();
  };
  const std::vector<LoadOutcome> outcomes = client::run_load(plan.load, requests);
  line.clear();
  if (Interrupt::signal()) return 128 + Interrupt::signal();

  const ServeFigures figures = serve_figures(outcomes, input_lens);
  Json result = describe_run(o, plan);
  add_serve_figures(figures, outcomes, plan.report, &result);
  print_errors(outcomes);
  write_stdout(o.json ? openai::dump(result) + "\n"
                      : serve_table(figures, plan.report, plan.rate, o.max_concurrency));
  write_results(o, result);
  return figures.completed > 0 ? kExitOk : kExitError;
}

}  // namespace

Action define_bench_serve(Flags& flags) {
  auto o = std::make_shared<ServeOptions>();
  WorkloadOptions* w = &o->workload;
  flags.heading("Server");
  flags.text("--base-url", "URL", "http://HOST[:PORT][/PREFIX], instead of --host and --port",
             &o->base_url);
  flags.text("--host", "HOST", "(default: 127.0.0.1)", &o->host);
  flags.integer("--port", "(default: 8000)", &o->port, 1, 65535);
  flags.text("--endpoint", "PATH", "/v1/completions or /v1/chat/completions (default: the former)",
             &o->endpoint);
  flags.text("--model", "NAME", "as the server calls it (default: the first it lists)", &o->model);
  flags.values("--header", "NAME=VALUE",
               "sent with each request; $OPENAI_API_KEY is sent as the bearer token",
               [o](const std::string&, const std::string& text) { o->headers.push_back(text); });
  flags.heading("Load");
  flags.integer("--num-prompts", "requests (default: 1000)", &o->num_prompts, 1, 10'000'000);
  flags.text("--request-rate", "R",
             "requests a second, at random times; inf: all at once "
             "(default: inf)",
             &o->request_rate);
  flags.number("--burstiness",
               "1: Poisson arrivals; below it in bursts, above it evenly (default: 1)",
               &o->burstiness);
  flags.integer("--max-concurrency", "requests at once at most (default: no limit)",
                &o->max_concurrency, 1, 1'000'000);
  flags.integer("--num-warmups", "requests before the measured ones (default: 0)", &o->num_warmups,
                0, 1'000'000);
  flags.heading("Requests");
  flags.text("--dataset-name", "NAME", "random: random tokens (default: random)", &o->dataset_name);
  flags.integer("--random-input-len,--input-len", "tokens of a prompt (default: 1024)",
                &w->input_len, 1, 1 << 24);
  flags.integer("--random-output-len,--output-len", "tokens of an answer (default: 128)",
                &w->output_len, 1, 1 << 24);
  flags.number("--random-range-ratio",
               "lengths vary from (1 - R) to (1 + R) times that (default: 0)", &w->range_ratio);
  flags.integer("--random-prefix-len", "tokens that all prompts begin with (default: 0)",
                &w->prefix_len, 0, 1 << 24);
  flags.text("--tokenizer", "MODEL",
             "a model whose vocabulary ids are drawn from (default: the server's, if it tells)",
             &o->tokenizer);
  flags.integer("--vocab-size", "draw ids below this instead", &o->vocab_size, 1, 1 << 30);
  flags.number("--temperature", "0 always takes the likeliest token (default: 0)", &o->temperature);
  flags.toggle("--ignore-eos", "answers have their full length", &o->ignore_eos);
  flags.text("--extra-body", "JSON", "members of every request's body", &o->extra_body);
  flags.integer("--seed", "of the prompts and times (default: 0)", &o->seed, 0);
  flags.heading("Results");
  flags.text("--percentile-metrics", "LIST", "of ttft, tpot, itl and e2el (default: ttft,tpot,itl)",
             &o->percentile_metrics);
  flags.text("--metric-percentiles", "LIST", "(default: 99)", &o->metric_percentiles);
  flags.toggle("--save-result", "write the result to a file of its own", &o->save_result);
  flags.toggle("--save-detailed", "the same with the figures of every request", &o->save_detailed);
  flags.text("--result-dir", "FOLDER", "for it (default: .)", &o->result_dir);
  flags.text("--result-filename", "FILE", "its name (default: made of rate, model and date)",
             &o->result_filename);
  flags.text("--output-json", "FILE", "also write the result there", &o->output_json);
  flags.toggle("--json", "print the result as JSON", &o->json);
  flags.note(
      "Completions get token ids; chats get as many random words, since a template adds tokens of "
      "its own. Tokens are counted as the server reports them.");
  return [o] { return run_serve(*o); };
}

}  // namespace nanovllm::cli
