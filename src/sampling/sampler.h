// Sampler: one row of logits to one token id, and to logprobs.
//
// What this file decides is the policy, and SampleRow tells it; VocabularyScan finds and draws the
// tokens. The specification of samplers on devices.
//
// One for each thread. Scratch memory is taken in the constructor, but for the penalties' counts,
// which the first request with penalties takes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/step_sampler.h"
#include "nanovllm/outputs.h"
#include "sampling/vocabulary_scan.h"

namespace nanovllm {

class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  // The token drawn from the logits [vocab_size], which are adjusted in place, and are what they
  // were when it returns. The row has no token to score.
  int32_t sample(const SampleRow& row, std::span<float> logits);

  // log_softmax(logits) of `token`, then of the top_n most likely tokens.
  PositionLogprobs logprobs(std::span<const float> logits, int32_t token, int64_t top_n);

 private:
  struct Change {
    int32_t id;
    float before;
  };
  void adjust(const SampleRow& row, std::span<float> logits);
  void apply_penalties(const SampleRow& row, std::span<float> logits);
  int32_t draw(const SampleRow& row);

  const int64_t vocab_size_;
  VocabularyScan scan_;
  std::vector<Change> changes_;  // made by adjust(), in order
  std::vector<int32_t> counts_;  // [vocab_size] or empty; all zero between calls
};

}  // namespace nanovllm
