// LLMEngine: requests in, tokens out. step() is the whole engine: schedule, run the model, sample,
// post-process.
//
// Owns every live request. Engine thread only; callbacks run inside step() and may call
// add_request() and cancel().
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/output_processor.h"
#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "engine/sequence.h"
#include "model/model_runner.h"
#include "structured/mask_worker.h"

namespace nanovllm {

class LLMEngine {
 public:
  // config and plan as plan_memory() left them. runner and tokenizer (may be null) outlive the
  // engine.
  LLMEngine(const EngineConfig& config, const MemoryPlan& plan, const ModelConfig& model,
            ModelRunner& runner, const Tokenizer* tokenizer);

  // Throws InvalidArgument for what could never run. params.max_tokens -1 means as many as fit.
  uint64_t add_request(std::vector<int32_t> prompt, SamplingParams params, StreamCallback callback,
                       const RequestOptions& options);
  void cancel(uint64_t request_id);
  bool step(const std::atomic<bool>* give_up = nullptr);  // false: given up
  bool has_unfinished_requests() const { return !requests_.empty(); }
  EngineStats stats() const;
  void check_integrity() const;

  // For those who watch. The hook is called when a step has computed what was scheduled, before
  // the finished requests are forgotten; it is given the stats' seconds at the step's beginning.
  using StepHook = std::function<void(std::span<const ScheduledSequence>, const StepSeconds&)>;
  void set_step_hook(StepHook hook) { step_hook_ = std::move(hook); }
  const Scheduler& scheduler() const { return scheduler_; }
  const BlockManager& block_manager() const { return block_manager_; }
  const Batch& batch() const { return batch_; }

 private:
  void sample(std::span<const ScheduledSequence> scheduled);
  void read_row(std::span<const ScheduledSequence> scheduled, int64_t row, std::span<float> logits,
                Sampler& sampler);
  void postprocess(const ScheduledSequence& scheduled);
  bool append(Sequence& seq, int32_t token, PositionLogprobs* logprobs);  // false: it has ended
  void abort(Request& request);
  void forget_finished();
  void lap(double* seconds);  // adds the time since the last lap

  const int64_t max_model_len_, vocab_size_;
  const uint64_t seed_;
  const SpeculativeConfig speculative_config_;
  ModelRunner& runner_;
  BlockManager block_manager_;
  Scheduler scheduler_;
  std::vector<Sampler> samplers_;  // one a thread
  OutputProcessor output_processor_;
  Batch batch_;  // reused by every step
  StepHook step_hook_;

  std::unordered_map<uint64_t, std::unique_ptr<Request>> requests_;
  MaskWorker mask_worker_;          // of sequences whose text must have a form
  std::vector<uint64_t> finished_;  // to be forgotten at the end of the step
  bool in_step_ = false;
  uint64_t next_request_id_ = 1;
  EngineStats stats_;
  std::chrono::steady_clock::time_point last_lap_;

  // Of the step under way, one entry a row of logits; token -1: it scores the prompt.
  std::vector<int32_t> sampled_;
  std::vector<PositionLogprobs> sampled_logprobs_;
};

}  // namespace nanovllm
