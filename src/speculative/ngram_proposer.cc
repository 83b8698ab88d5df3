#include "speculative/ngram_proposer.h"

#include <algorithm>
#include <bit>

namespace nanovllm {

NgramProposer::NgramProposer(const SpeculativeConfig& config, int64_t max_tokens)
    : min_(config.lookup_min()),
      max_(config.lookup_max()),
      num_speculative_tokens_(config.num_speculative_tokens),
      max_tokens_(max_tokens) {}

// The chain of the n-gram that ends before `end`.
int32_t& NgramProposer::head(std::span<const int32_t> tokens, int64_t end) {
  uint64_t hash = 0;
  for (int64_t i = end - min_; i < end; ++i)
    hash = (hash ^ static_cast<uint32_t>(tokens[i])) * 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  return head_[(hash >> 32) & (head_.size() - 1)];
}

std::span<const int32_t> NgramProposer::propose(std::span<const int32_t> tokens, int64_t limit) {
  const auto size = static_cast<int64_t>(tokens.size());
  draft_.clear();
  if (limit <= 0 || size <= min_) return draft_;
  if (head_.empty()) {
    head_.assign(std::bit_ceil(static_cast<uint64_t>(max_tokens_)), -1);
    previous_.reserve(max_tokens_);
    previous_.assign(min_, -1);  // no n-gram ends before these
    draft_.reserve(num_speculative_tokens_);
  }
  // The n-grams that have a token after them by now. The last one is not among them.
  for (auto end = static_cast<int64_t>(previous_.size()); end < size; ++end) {
    int32_t& latest = head(tokens, end);
    previous_.push_back(latest);
    latest = static_cast<int32_t>(end);
  }
  int64_t longest = 0, from = 0;
  int32_t end = head(tokens, size);
  for (int i = 0; end != -1 && i < kMaxCandidates && longest < max_; ++i, end = previous_[end]) {
    int64_t length = 0;
    while (length < max_ && length < end && tokens[end - 1 - length] == tokens[size - 1 - length])
      ++length;
    if (length >= min_ && length > longest) longest = length, from = end;
  }
  if (longest == 0) return draft_;
  const int64_t count = std::min(limit, num_speculative_tokens_), period = size - from;
  for (int64_t i = 0; i < count; ++i) draft_.push_back(tokens[from + i % period]);
  return draft_;
}

}  // namespace nanovllm
