// Metrics: what the server has done, as Prometheus text. Names and buckets are vLLM's, under the
// prefix "nano_vllm:", so that dashboards and alerts need their prefix changed and nothing else.
// Labels hold names of models and API keys only, both from the operator: their number is bounded.
//
// Any thread: everything is behind one lock, held for microseconds.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "nanovllm/llm.h"

namespace nanovllm {

class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);  // upper ones, rising; +Inf is added
  void observe(double value);
  // The samples NAME_bucket, NAME_sum and NAME_count. labels: `model_name="x"`.
  void write(std::string* out, const std::string& name, const std::string& labels) const;

 private:
  std::vector<double> bounds_;
  std::vector<int64_t> counts_;  // not cumulative; one more than bounds
  double sum_ = 0;
};

// What one HTTP request asked of the engine and got. Times are seconds since some moment; -1: not
// reached.
struct CallRecord {
  size_t key = 0;
  double arrived = 0, entered = -1, first_token = -1, last_token = -1;
  int64_t prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  int64_t n = 1, max_tokens = 0;
  std::vector<FinishReason> finish_reasons;  // of its completions
};

class Metrics {
 public:
  // keys: names of the API keys, or one "" without keys.
  Metrics(std::string model_name, std::string version, std::vector<std::string> keys,
          int64_t max_model_len);

  void set_keys(std::vector<std::string> keys);       // others behind those there are
  void add_step(const EngineStats& stats);            // engine thread, before each step
  void add_token_gap(double seconds);                 // between two tokens of one completion
  void add_call(const CallRecord& call, double now);  // it is over
  void add_refusal(size_t key);                       // by a limit
  void add_response(int status);

  // One of each key: requests that wait for the engine, and that are in it.
  struct KeyLoad {
    int64_t waiting = 0, running = 0;
  };
  std::string text(const EngineStats& stats, const std::vector<KeyLoad>& loads) const;

 private:
  struct KeyCounters {
    int64_t requests = 0, refused = 0, prompt_tokens = 0, cached_tokens = 0, output_tokens = 0;
  };

  const std::string model_name_, version_;
  mutable std::mutex mutex_;
  std::vector<std::string> keys_;
  EngineStats last_;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0;
  std::array<int64_t, 4> finished_{};  // by FinishReason
  std::map<int, int64_t> responses_;   // by status
  std::vector<KeyCounters> key_counters_;
  Histogram iteration_tokens_, prompt_size_, output_size_, n_, max_tokens_;
  Histogram first_token_, token_gap_, time_per_token_, total_, queued_, prefill_, decode_,
      inference_;
};

}  // namespace nanovllm
