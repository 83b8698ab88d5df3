// CudaSampler: draws a step's tokens on the device (backend/step_sampler.h). What is plain in the
// rows travels with the batch; biases, masks and the history of penalties are sent by draw(), for
// the rows that have them.
//
// The tokens of the last step stay on the device, where the next batch's embedding looks up the ids
// that name them. They and the logprobs come to the host in one copy a step into one of three
// buffers: two steps may be under way while the results of a third are read.
//
// Owned by the engine, may not outlive the backend; called by the backend's thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/penalty_counts.h"
#include "backend/cuda/sampling.h"

namespace nanovllm::cuda {

// What a sampler and its backend share; the backend's.
struct SamplerLink {
  std::span<const RowParams> params;  // of the step that was begun: to be sent with its batch
  const RowParams* device_params = nullptr;  // where they are
  DeviceBuffer tokens;                       // [max rows] of the last step
};

class CudaSampler : public StepSampler {
 public:
  CudaSampler(const StepLimits& limits, int64_t max_draw_rows, const Stream& stream,
              SamplerLink& link);
  ~CudaSampler() override;
  static int64_t bytes(const StepLimits& limits, int64_t max_draw_rows);

  void begin(std::span<const SampleRow> rows) override;
  void draw(float* logits, int64_t first, int64_t count) override;
  void submit() override;
  std::span<const int32_t> wait() override;
  std::span<const TokenLogprob> logprobs(int64_t row) const override;

 private:
  // The results of a step, on the host.
  struct Results {
    PinnedBuffer tokens, logprobs;  // [max rows], [max rows, kMaxLogprobs + 1]
    Event there;
    int64_t num_rows = 0;
    std::vector<int32_t> num_logprobs;  // of each row, -1: none
  };
  static constexpr int kResults = 3;

  // Puts what row r needs besides its parameters into the staging buffer; false: there is no room
  // left.
  bool stage(int64_t r, RowExtras* extras);
  template <typename T>
  T* take(int64_t count, int64_t* at) const;

  const StepLimits limits_;
  const int64_t max_draw_rows_;
  const Stream& stream_;
  SamplerLink& link_;
  DeviceBuffer logprobs_, maxima_, sums_;
  PenaltyCounts counts_;

  // Extras and all they point to, of the rows of one launch. The host fills one half while the
  // other travels.
  const int64_t staging_bytes_;
  DeviceBuffer staging_;
  PinnedBuffer staging_host_[2];
  Event staged_[2];
  int next_staging_ = 0;
  int64_t staging_used_ = 0;

  std::span<const SampleRow> rows_;
  std::vector<RowParams> params_;
  bool wants_logprobs_ = false;
  Results results_[kResults];
  int64_t submitted_ = 0, waited_ = 0;  // steps
};

}  // namespace nanovllm::cuda
