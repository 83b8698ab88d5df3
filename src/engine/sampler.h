// Sampler: one row of logits to one token id, and to logprobs.
//
// The token drawn depends only on the logits, the request's parameters and tokens, and (seed,
// index, position): nothing that shares the batch matters. What this file decides is the policy;
// VocabularyScan finds and draws the tokens.
//
// One for each thread. Scratch memory is taken in the constructor, but for the penalties' counts,
// which the first request with penalties takes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sequence.h"
#include "sampling/vocabulary_scan.h"

namespace nanovllm {

class Sampler {
 public:
  // eos_token_ids: masked, like stop_token_ids, until min_tokens are out.
  Sampler(int64_t vocab_size, std::vector<int32_t> eos_token_ids);

  // The token of seq at `position`, by the logits [vocab_size] of the one before. seq has those
  // tokens at least; what guesses are behind them is not looked at. Steps, in vLLM's order:
  // form, logit_bias and min_tokens, penalties, then greedy, or temperature, min_p, top_k, top_p
  // and a draw. The logits are adjusted in place, and are what they were when it returns.
  int32_t sample(const Sequence& seq, int64_t position, std::span<float> logits);

  // log_softmax(logits) of `token`, then of the top_n most likely tokens.
  PositionLogprobs logprobs(std::span<const float> logits, int32_t token, int64_t top_n);

 private:
  struct Change {
    int32_t id;
    float before;
  };
  void adjust(const Sequence& seq, int64_t position, std::span<float> logits);
  void apply_penalties(const Sequence& seq, int64_t position, std::span<float> logits);
  int32_t draw(const Sequence& seq, int64_t position);

  const int64_t vocab_size_;
  const std::vector<int32_t> eos_token_ids_;
  VocabularyScan scan_;
  std::vector<Change> changes_;  // made by adjust(), in order
  std::vector<int32_t> counts_;  // [vocab_size] or empty; all zero between calls
};

}  // namespace nanovllm
