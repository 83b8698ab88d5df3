#include "sampling/host_sampler.h"

#include <functional>

namespace nanovllm {

HostSampler::HostSampler(Backend& backend, int64_t vocab_size, int64_t max_rows)
    : backend_(backend), vocab_size_(vocab_size) {
  const int threads = backend.num_threads();
  samplers_.reserve(threads);  // a sampler that is copied loses the memory it reserved
  for (int i = 0; i < threads; ++i) samplers_.emplace_back(vocab_size);
  tokens_.reserve(max_rows);
  logprobs_.reserve(max_rows);
}

void HostSampler::begin(std::span<const SampleRow> rows) {
  rows_ = rows;
  tokens_.assign(rows.size(), -1);
  logprobs_.clear();
  logprobs_.resize(rows.size());
}

void HostSampler::draw(float* logits, int64_t first, int64_t count) {
  const std::span<float> values = backend_.to_host(logits, count * vocab_size_);
  auto read = [&](int64_t i, int thread) {
    read_row(first + i, values.subspan(i * vocab_size_, vocab_size_), samplers_[thread]);
  };
  backend_.parallel_for(count, std::ref(read));
}

// Runs on any thread: it writes what belongs to this row alone.
void HostSampler::read_row(int64_t r, std::span<float> logits, Sampler& sampler) {
  const SampleRow& row = rows_[r];
  tokens_[r] = row.scored_token >= 0 ? row.scored_token : sampler.sample(row, logits);
  if (row.num_logprobs >= 0) logprobs_[r] = sampler.logprobs(logits, tokens_[r], row.num_logprobs);
}

}  // namespace nanovllm
