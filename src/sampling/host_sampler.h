// HostSampler: the StepSampler of backends that have none. The host reads the logits, on as many
// threads as the backend has to spare.
//
// One step at a time: draw() does the work, wait() has nothing to wait for, and what it gives is
// valid until the next begin(). Owned by the engine; engine thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "sampling/sampler.h"

namespace nanovllm {

class HostSampler : public StepSampler {
 public:
  // max_rows: of a step, so that none allocates but for logprobs. The backend outlives this.
  HostSampler(Backend& backend, int64_t vocab_size, int64_t max_rows);

  void begin(std::span<const SampleRow> rows) override;
  void draw(float* logits, int64_t first, int64_t count) override;
  void submit() override {}
  std::span<const int32_t> wait() override { return tokens_; }
  std::span<const TokenLogprob> logprobs(int64_t row) const override { return logprobs_[row]; }

 private:
  void read_row(int64_t row, std::span<float> logits, Sampler& sampler);

  Backend& backend_;
  const int64_t vocab_size_;
  std::vector<Sampler> samplers_;  // one a thread
  std::span<const SampleRow> rows_;
  // [rows]
  std::vector<int32_t> tokens_;
  std::vector<PositionLogprobs> logprobs_;
};

}  // namespace nanovllm
