// Sampler: one row of logits to one token id, and to logprobs.
//
// The token drawn depends only on the logits, the request's parameters and tokens, and (seed,
// index, position): nothing that shares the batch matters. The vocabulary is never sorted: top-k
// and top-p select by partition, in linear time.
//
// Engine thread only. Scratch memory is taken in the constructor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sequence.h"

namespace nanovllm {

class Sampler {
 public:
  // eos_token_ids: masked, like stop_token_ids, until min_tokens are out.
  Sampler(int64_t vocab_size, std::vector<int32_t> eos_token_ids);

  // The next token of seq, whose newest token gave these logits [vocab_size]. Steps, in vLLM's
  // order: min_tokens and logit_bias, penalties, then greedy, or temperature, min_p, top_k, top_p
  // and a draw.
  int32_t sample(const Sequence& seq, std::span<const float> logits);

  // log_softmax(logits) of `token`, then of the top_n most likely tokens.
  PositionLogprobs logprobs(std::span<const float> logits, int32_t token, int64_t top_n);

 private:
  struct Candidate {
    float weight;  // unnormalized probability
    int32_t id;
  };
  std::span<const float> adjust(const Sequence& seq, std::span<const float> logits);
  void apply_penalties(const Sequence& seq);
  void collect_candidates(const SamplingParams& params, std::span<const float> logits);
  void keep_top_p(double top_p);

  const std::vector<int32_t> eos_token_ids_;
  std::vector<float> values_;          // [vocab_size] adjusted logits
  std::vector<float> select_;          // [vocab_size] scratch of the top-k selection
  std::vector<int32_t> counts_;        // [vocab_size] all zero between calls
  std::vector<Candidate> candidates_;  // capacity vocab_size
};

}  // namespace nanovllm
