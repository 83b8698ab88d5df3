// RequestSampling: what of a request's sampling is the same for all its tokens, worked out once. It
// gives the SampleRow of each.
//
// Part of a Request; engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/step_sampler.h"
#include "nanovllm/sampling_params.h"

namespace nanovllm {

class RequestSampling {
 public:
  RequestSampling() = default;
  // eos_token_ids may not come, like stop_token_ids, until min_tokens are out. If the text must
  // have a form, its mask sees to that.
  RequestSampling(const SamplingParams& params, uint64_t seed, int64_t num_prompt_tokens,
                  std::span<const int32_t> eos_token_ids);

  // Of the token that follows `tokens`, in completion `index`. The row points into this and into
  // tokens. sequence: see SampleRow.
  SampleRow row(std::span<const int32_t> tokens, int index, uint64_t sequence) const;
  bool has_penalties() const { return has_penalties_; }

 private:
  SampleRow plain_;
  int64_t min_tokens_ = 0;
  bool has_penalties_ = false;
  std::vector<LogitBias> biases_;  // logit_bias, and from num_biases_ on what may not come yet
  size_t num_biases_ = 0;
};

}  // namespace nanovllm
