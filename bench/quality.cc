// bench_quality: how far a quantized model's predictions are from those of the float32 one, on a
// text. For every position of every window it takes the whole distribution of the next token from
// both and reports the mean Kullback-Leibler divergence, KL(float32 || candidate), in nats.
//
//   bench_quality MODEL IDS WINDOW [--threads N] CANDIDATE...
//
// IDS is a file of int32 token ids; windows of WINDOW tokens are independent sequences. A candidate
// is NAME=WEIGHTS/KV, e.g. int8=int8/auto: MODEL's weights under --quantization or --dtype WEIGHTS
// and --kv-cache-dtype KV; NAME=WEIGHTS/KV@FILE: the same of another file; NAME=<FILE: float32
// logits of the same positions, read as they come, from a pipe that another engine's program
// writes. Prints one JSON object. bench/quality is the command that drives it.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/memory_plan.h"
#include "model/model_runner.h"
#include "nanovllm/error.h"

namespace nanovllm::bench {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kRows = 32;  // at a time, as many as a CPU's model runner gives

// Gives the logits of a window's positions, some rows at a time.
class Source {
 public:
  virtual ~Source() = default;
  virtual int64_t vocab_size() const = 0;  // 0: not known
  virtual void start(std::span<const int32_t> window) = 0;
  virtual const float* rows(int64_t first, int64_t count) = 0;  // valid until the next call
};

EngineConfig engine_config(const std::string& model, const std::string& weights,
                           const std::string& kv, int64_t window, int threads) {
  EngineConfig config{.model = model,
                      .max_model_len = window,
                      .max_num_seqs = 1,
                      .max_num_batched_tokens = window,
                      .kv_cache_dtype = kv,
                      .threads = threads};
  (weights == "int8" || weights == "int4" ? config.quantization : config.dtype) = weights;
  return config;
}

class Engine : public Source {
 public:
  Engine(const std::string& model, const std::string& weights, const std::string& kv,
         int64_t window, int threads) {
    EngineConfig config = engine_config(model, weights, kv, window, threads);
    const auto checkpoint = Checkpoint::open(model);
    auto backend = make_cpu_backend(threads);
    const MemoryPlan plan = plan_memory(*checkpoint, *backend, &config);
    vocab_size_ = checkpoint->config().vocab_size;
    runner_ = std::make_unique<ModelRunner>(std::move(backend), *checkpoint, config, plan);
    batch_.block_size = static_cast<int32_t>(config.block_size);
    batch_.block_table_stride =
        static_cast<int32_t>((window + config.block_size - 1) / config.block_size);
  }
  int64_t vocab_size() const override { return vocab_size_; }
  void start(std::span<const int32_t> window) override {
    const auto n = static_cast<int32_t>(window.size());
    batch_.clear();
    for (int32_t i = 0; i < n; ++i) {
      batch_.token_ids.push_back(window[static_cast<size_t>(i)]);
      batch_.positions.push_back(i);
      batch_.slot_mapping.push_back(i);
      batch_.logits_rows.push_back(i);
    }
    batch_.query_start = {0, n};
    batch_.context_lens = {n};
    for (int32_t i = 0; i < batch_.block_table_stride; ++i) batch_.block_tables.push_back(i);
    runner_->run(batch_);
  }
  const float* rows(int64_t first, int64_t count) override {
    return runner_->logits(std::span(batch_.logits_rows).subspan(first, count)).data();
  }

 private:
  std::unique_ptr<ModelRunner> runner_;
  Batch batch_;
  int64_t vocab_size_ = 0;
};

class Stream : public Source {
 public:
  Stream(const std::string& path, int64_t vocab_size)
      : path_(path), vocab_size_(vocab_size), file_(path, std::ios::binary) {}
  int64_t vocab_size() const override { return 0; }
  void start(std::span<const int32_t>) override {}
  const float* rows(int64_t, int64_t count) override {
    buffer_.resize(static_cast<size_t>(count * vocab_size_));
    const auto bytes = static_cast<std::streamsize>(buffer_.size() * sizeof(float));
    file_.read(reinterpret_cast<char*>(buffer_.data()), bytes);
    if (file_.gcount() != bytes) throw Error(path_, "ends before the last position");
    return buffer_.data();
  }

 private:
  std::string path_;
  int64_t vocab_size_;
  std::ifstream file_;
  std::vector<float> buffer_;
};

struct Distribution {
  const float* logits;
  double log_sum;  // logprob of i: logits[i] - log_sum
  int64_t best;
};

Distribution distribution(const float* logits, int64_t n) {
  const int64_t best = std::max_element(logits, logits + n) - logits;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(logits[i] - logits[best]);
  return {logits, logits[best] + std::log(sum), best};
}

double divergence(const Distribution& p, const Distribution& q, int64_t n) {
  const auto shift = static_cast<float>(p.log_sum);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i)
    sum += std::exp(p.logits[i] - shift) *
           (static_cast<double>(p.logits[i]) - static_cast<double>(q.logits[i]));
  return sum - p.log_sum + q.log_sum;
}

struct Candidate {
  std::string name;
  std::unique_ptr<Source> source;
  std::vector<double> divergences;
  double log_likelihood = 0;  // of the text's own tokens
  int64_t same_best = 0;
};

Json summary(const Candidate& c, int64_t predicted) {
  std::vector<double> sorted = c.divergences;
  std::sort(sorted.begin(), sorted.end());
  const auto n = static_cast<double>(sorted.size());
  double mean = 0, variance = 0;
  for (const double d : sorted) mean += d / n;
  for (const double d : sorted) variance += (d - mean) * (d - mean) / (n - 1);
  const auto at = [&](double share) { return sorted[static_cast<size_t>(share * (n - 1))]; };
  return {{"name", c.name},
          {"mean_kl", mean},
          {"standard_error", std::sqrt(variance / n)},
          {"median_kl", at(0.5)},
          {"p99_kl", at(0.99)},
          {"max_kl", sorted.back()},
          {"same_best_token", static_cast<double>(c.same_best) / n},
          {"perplexity", std::exp(-c.log_likelihood / static_cast<double>(predicted))}};
}

std::vector<int32_t> read_ids(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) throw Error(path, "cannot be read");
  std::vector<int32_t> ids(static_cast<size_t>(file.tellg()) / sizeof(int32_t));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(ids.data()),
            static_cast<std::streamsize>(ids.size() * sizeof(int32_t)));
  return ids;
}

Candidate make_candidate(const std::string& spec, const std::string& model, int64_t window,
                         int threads, int64_t vocab_size) {
  const size_t equals = spec.find('=');
  if (equals == std::string::npos)
    throw InvalidArgument("'" + spec + "'",
                          "is not a candidate: NAME=WEIGHTS/KV[@FILE] or NAME=<FILE");
  Candidate c{.name = spec.substr(0, equals)};
  const std::string what = spec.substr(equals + 1);
  if (what.starts_with('<')) {
    c.source = std::make_unique<Stream>(what.substr(1), vocab_size);
    return c;
  }
  const size_t slash = what.find('/'), at = what.find('@');
  if (slash == std::string::npos || slash > at)
    throw InvalidArgument("'" + spec + "'", "is not NAME=WEIGHTS/KV[@FILE]");
  c.source = std::make_unique<Engine>(
      at == std::string::npos ? model : what.substr(at + 1), what.substr(0, slash),
      what.substr(slash + 1, at == std::string::npos ? at : at - slash - 1), window, threads);
  if (c.source->vocab_size() != vocab_size)
    throw Error(c.name, "has another vocabulary than the reference");
  return c;
}

void run(const std::string& model, const std::string& ids_path, int64_t window, int threads,
         const std::vector<std::string>& specs) {
  const std::vector<int32_t> ids = read_ids(ids_path);
  const int64_t windows = static_cast<int64_t>(ids.size()) / window;
  if (windows < 1) throw Error(ids_path, "is shorter than one window");
  Engine reference(model, "float32", "float32", window, threads);
  const int64_t vocab = reference.vocab_size();
  std::vector<Candidate> candidates;
  for (const std::string& spec : specs)
    candidates.push_back(make_candidate(spec, model, window, threads, vocab));
  Candidate base{.name = "float32"};

  for (int64_t w = 0; w < windows; ++w) {
    const auto tokens =
        std::span(ids).subspan(static_cast<size_t>(w * window), static_cast<size_t>(window));
    reference.start(tokens);
    for (Candidate& c : candidates) c.source->start(tokens);
    for (int64_t first = 0; first < window; first += kRows) {
      const int64_t count = std::min(kRows, window - first);
      const float* expected = reference.rows(first, count);
      std::vector<Distribution> p;
      for (int64_t r = 0; r < count; ++r) p.push_back(distribution(expected + r * vocab, vocab));
      const auto score = [&](Candidate& c, int64_t r, const Distribution& q) {
        if (first + r + 1 < window)
          c.log_likelihood += q.logits[tokens[static_cast<size_t>(first + r + 1)]] - q.log_sum;
      };
      for (int64_t r = 0; r < count; ++r) score(base, r, p[static_cast<size_t>(r)]);
      for (Candidate& c : candidates) {
        const float* got = c.source->rows(first, count);
        for (int64_t r = 0; r < count; ++r) {
          const Distribution& expect = p[static_cast<size_t>(r)];
          const Distribution q = distribution(got + r * vocab, vocab);
          c.divergences.push_back(divergence(expect, q, vocab));
          c.same_best += q.best == expect.best;
          score(c, r, q);
        }
      }
    }
    std::fprintf(stderr, "\rwindow %lld of %lld", static_cast<long long>(w + 1),
                 static_cast<long long>(windows));
  }
  std::fprintf(stderr, "\n");
  const int64_t predicted = windows * (window - 1);
  Json result = {
      {"positions", windows * window},
      {"window", window},
      {"reference_perplexity", std::exp(-base.log_likelihood / static_cast<double>(predicted))},
      {"candidates", Json::array()}};
  for (const Candidate& c : candidates) result["candidates"].push_back(summary(c, predicted));
  std::cout << result.dump(1) << "\n";
}

}  // namespace
}  // namespace nanovllm::bench

int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc), specs;
  int threads = 0;
  for (size_t i = 3; i < words.size(); ++i) {
    if (words[i] == "--threads" && i + 1 < words.size()) {
      threads = std::atoi(words[++i].c_str());
    } else {
      specs.push_back(words[i]);
    }
  }
  const int64_t window = words.size() > 3 ? std::atoll(words[2].c_str()) : 0;
  if (window < 2 || specs.empty()) {
    std::fprintf(stderr, "usage: bench_quality MODEL IDS WINDOW [--threads N] CANDIDATE...\n");
    return 2;
  }
  try {
    nanovllm::bench::run(words[0], words[1], window, threads, specs);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_quality: %s\n", error.what());
    return 1;
  }
}
