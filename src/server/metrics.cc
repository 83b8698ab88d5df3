#include "server/metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>

namespace nanovllm {
namespace {

std::string number(double value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}
std::string number(int64_t value) { return std::to_string(value); }

std::string label(const std::string& name, const std::string& value) {
  std::string escaped;
  for (const char c : value) {
    if (c == '\\' || c == '"') escaped += '\\';
    if (c == '\n')
      escaped += "\\n";
    else
      escaped += c;
  }
  return name + "=\"" + escaped + "\"";
}

const std::vector<double> kFirstTokenBuckets = {.001, .005, .01, .02, .04, .06, .08, .1,
                                                .25,  .5,   .75, 1,   2.5, 5,   7.5, 10,
                                                20,   40,   80,  160, 640, 2560};
const std::vector<double> kTokenBuckets = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                           .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const std::vector<double> kRequestBuckets = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                             30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kStepBuckets = {1,   8,    16,   32,   64,   128,  256,
                                          512, 1024, 2048, 4096, 8192, 16384};

// 1, 2, 5, 10, 20, 50, ... up to max
std::vector<double> size_buckets(int64_t max) {
  std::vector<double> bounds;
  for (int64_t decade = 1;; decade *= 10)
    for (const int64_t step : {1, 2, 5}) {
      if (decade * step > max && !bounds.empty()) return bounds;
      bounds.push_back(static_cast<double>(decade * step));
    }
}

// One family: its type, what it is, and its samples.
class Family {
 public:
  Family(std::string* out, const char* type, const std::string& name, const char* help)
      : out_(out), name_(name) {
    *out_ += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
  }
  template <class T>
  Family& add(const std::string& labels, T value) {
    *out_ += name_ + (labels.empty() ? "" : "{" + labels + "}") + " " + number(value) + "\n";
    return *this;
  }

 private:
  std::string* out_;
  const std::string name_;
};

int64_t resident_bytes() {
  long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return int64_t{pages} * sysconf(_SC_PAGESIZE);
}

int64_t open_files() {
  int64_t count = 0;
  if (DIR* folder = opendir("/proc/self/fd")) {
    while (readdir(folder)) ++count;
    closedir(folder);
  }
  return std::max<int64_t>(0, count - 3);  // ".", ".." and the folder itself
}

double cpu_seconds() {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

const double kStartTime =
    std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();

}  // namespace

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1, 0) {}

void Histogram::observe(double value) {
  ++counts_[static_cast<size_t>(std::ranges::lower_bound(bounds_, value) - bounds_.begin())];
  sum_ += value;
}

void Histogram::write(std::string* out, const std::string& name, const std::string& labels) const {
  int64_t count = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    count += counts_[i];
    *out += name + "_bucket{" + labels + ",le=\"" +
            (i < bounds_.size() ? number(bounds_[i]) : "+Inf") + "\"} " + number(count) + "\n";
  }
  *out += name + "_sum{" + labels + "} " + number(sum_) + "\n";
  *out += name + "_count{" + labels + "} " + number(count) + "\n";
}

Metrics::Metrics(std::string model_name, std::string version, std::vector<std::string> keys,
                 int64_t max_model_len)
    : model_name_(std::move(model_name)),
      version_(std::move(version)),
      keys_(std::move(keys)),
      key_counters_(keys_.size()),
      iteration_tokens_(kStepBuckets),
      prompt_size_(size_buckets(max_model_len)),
      output_size_(size_buckets(max_model_len)),
      n_({1, 2, 5, 10, 20}),
      max_tokens_(size_buckets(max_model_len)),
      first_token_(kFirstTokenBuckets),
      token_gap_(kTokenBuckets),
      time_per_token_(kTokenBuckets),
      total_(kRequestBuckets),
      queued_(kRequestBuckets),
      prefill_(kRequestBuckets),
      decode_(kRequestBuckets),
      inference_(kRequestBuckets) {}

void Metrics::set_keys(std::vector<std::string> keys) {
  const std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
  key_counters_.resize(keys_.size());
}

void Metrics::add_step(const EngineStats& stats) {
  const std::lock_guard lock(mutex_);
  auto tokens = [](const EngineStats& s) { return s.prompt_tokens_computed + s.tokens_generated; };
  if (stats.steps > last_.steps)
    iteration_tokens_.observe(static_cast<double>(tokens(stats) - tokens(last_)));
  last_ = stats;
}

void Metrics::add_token_gap(double seconds) {
  const std::lock_guard lock(mutex_);
  token_gap_.observe(seconds);
}

void Metrics::add_call(const CallRecord& call, double now) {
  const std::lock_guard lock(mutex_);
  KeyCounters& key = key_counters_[call.key];
  ++key.requests;
  key.prompt_tokens += call.prompt_tokens;
  key.cached_tokens += call.cached_tokens;
  key.output_tokens += call.output_tokens;
  prompt_tokens_ += call.prompt_tokens;
  cached_tokens_ += call.cached_tokens;
  bool finished = false;
  for (const FinishReason reason : call.finish_reasons) {
    ++finished_[static_cast<size_t>(reason)];
    finished |= reason == FinishReason::kStop || reason == FinishReason::kLength;
  }
  if (call.entered >= 0) queued_.observe(call.entered - call.arrived);
  if (!finished) return;
  prompt_size_.observe(static_cast<double>(call.prompt_tokens));
  output_size_.observe(static_cast<double>(call.output_tokens));
  n_.observe(static_cast<double>(call.n));
  max_tokens_.observe(static_cast<double>(call.max_tokens));
  total_.observe(now - call.arrived);
  inference_.observe(now - call.entered);
  if (call.first_token < 0) return;
  first_token_.observe(call.first_token - call.arrived);
  prefill_.observe(call.first_token - call.entered);
  decode_.observe(call.last_token - call.first_token);
  if (const auto completions = std::ssize(call.finish_reasons); call.output_tokens > completions)
    time_per_token_.observe((call.last_token - call.first_token) *
                            static_cast<double>(completions) /
                            static_cast<double>(call.output_tokens - completions));
}

void Metrics::add_refusal(size_t key) {
  const std::lock_guard lock(mutex_);
  ++key_counters_[key].refused;
}

void Metrics::add_response(int status) {
  const std::lock_guard lock(mutex_);
  ++responses_[status];
}

std::string Metrics::text(const EngineStats& stats, const std::vector<KeyLoad>& loads) const {
  const std::lock_guard lock(mutex_);
  std::string out;
  const std::string model = label("model_name", model_name_);
  auto family = [&](const char* type, const std::string& name, const char* help) {
    return Family(&out, type, "nano_vllm:" + name, help);
  };
  auto histogram = [&](const std::string& name, const char* help, const Histogram& values) {
    family("histogram", name, help);
    values.write(&out, "nano_vllm:" + name, model);
  };
  int64_t waiting = stats.waiting;
  for (const KeyLoad& load : loads) waiting += load.waiting;

  family("gauge", "num_requests_running", "Sequences in the batch.").add(model, stats.running);
  family("gauge", "num_requests_waiting", "Requests that wait to be processed.")
      .add(model, waiting);
  family("gauge", "kv_cache_usage_perc", "KV cache blocks in use; 1 is all of them.")
      .add(model, static_cast<double>(stats.kv_blocks_used) /
                      static_cast<double>(std::max<int64_t>(1, stats.kv_blocks_total)));
  family("counter", "num_preemptions_total", "Sequences that had to give up their blocks.")
      .add(model, stats.preemptions);
  family("counter", "prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.")
      .add(model, prompt_tokens_);
  family("counter", "prefix_cache_hits_total", "Prompt tokens found there.")
      .add(model, cached_tokens_);
  family("counter", "prompt_tokens_total", "Prompt tokens of requests, cached ones too.")
      .add(model, prompt_tokens_);
  family("counter", "generation_tokens_total", "Tokens generated.")
      .add(model, stats.tokens_generated);
  family("counter", "engine_steps_total", "Forward passes.").add(model, stats.steps);
  family("counter", "engine_steps_dropped_total", "Forward passes given up for a newcomer.")
      .add(model, stats.steps_dropped);
  family("counter", "spec_decode_num_drafts_total", "Times that tokens were guessed.")
      .add(model, stats.num_drafts);
  family("counter", "spec_decode_num_draft_tokens_total", "Tokens guessed.")
      .add(model, stats.num_draft_tokens);
  family("counter", "spec_decode_num_accepted_tokens_total", "Guesses that were right.")
      .add(model, stats.num_accepted_tokens);
  Family success = family("counter", "request_success_total", "Completions, by how they ended.");
  for (const FinishReason reason :
       {FinishReason::kStop, FinishReason::kLength, FinishReason::kAbort})
    success.add(model + "," + label("finished_reason", to_string(reason)),
                finished_[static_cast<size_t>(reason)]);

  histogram("iteration_tokens_total", "Tokens computed in one step.", iteration_tokens_);
  histogram("request_prompt_tokens", "Prompt tokens of a request.", prompt_size_);
  histogram("request_generation_tokens", "Tokens generated for a request.", output_size_);
  histogram("request_params_n", "The n of requests.", n_);
  histogram("request_params_max_tokens", "The max_tokens of requests.", max_tokens_);
  histogram("time_to_first_token_seconds", "From arrival to the first token.", first_token_);
  histogram("inter_token_latency_seconds", "Between two tokens of a completion.", token_gap_);
  histogram("request_time_per_output_token_seconds", "The same, averaged over a request.",
            time_per_token_);
  histogram("e2e_request_latency_seconds", "From arrival to the end.", total_);
  histogram("request_queue_time_seconds", "From arrival until the engine has it.", queued_);
  histogram("request_inference_time_seconds", "In the engine.", inference_);
  histogram("request_prefill_time_seconds", "In the engine, until the first token.", prefill_);
  histogram("request_decode_time_seconds", "From the first token to the last.", decode_);

  // By API key. Without keys there is one, without a name.
  auto by_key = [&](const char* type, const char* name, const char* help, auto&& value) {
    Family samples = family(type, name, help);
    for (size_t i = 0; i < std::min(keys_.size(), loads.size()); ++i)
      samples.add(label("key", keys_[i]), value(i));
  };
  by_key("gauge", "key_requests_running", "Requests in the engine.",
         [&](size_t i) { return loads[i].running; });
  by_key("gauge", "key_requests_waiting", "Requests that wait for it.",
         [&](size_t i) { return loads[i].waiting; });
  by_key("counter", "key_requests_total", "Requests that are over.",
         [&](size_t i) { return key_counters_[i].requests; });
  by_key("counter", "key_requests_refused_total", "Requests refused by a limit.",
         [&](size_t i) { return key_counters_[i].refused; });
  by_key("counter", "key_prompt_tokens_total", "Prompt tokens, cached ones too.",
         [&](size_t i) { return key_counters_[i].prompt_tokens; });
  by_key("counter", "key_cached_tokens_total", "Prompt tokens from the prefix cache.",
         [&](size_t i) { return key_counters_[i].cached_tokens; });
  by_key("counter", "key_generation_tokens_total", "Tokens generated.",
         [&](size_t i) { return key_counters_[i].output_tokens; });

  Family responses = family("counter", "http_responses_total", "HTTP responses, by status.");
  for (const auto& [status, count] : responses_)
    responses.add(label("status", std::to_string(status)), count);
  family("gauge", "build_info", "The program.")
      .add(label("version", version_) + "," + model, int64_t{1});
  Family(&out, "gauge", "process_resident_memory_bytes", "Resident memory.")
      .add("", resident_bytes());
  Family(&out, "counter", "process_cpu_seconds_total", "Processor time.").add("", cpu_seconds());
  Family(&out, "gauge", "process_start_time_seconds", "When it started, Unix time.")
      .add("", kStartTime);
  Family(&out, "gauge", "process_open_fds", "Open files and sockets.").add("", open_files());
  return out;
}

}  // namespace nanovllm
