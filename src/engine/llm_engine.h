// LLMEngine: requests in, tokens out. step() is the whole engine: schedule, run the model, sample,
// post-process.
//
// With a device that draws the tokens itself the steps overlap: step n + 1 is scheduled and its
// pass enqueued before the tokens of step n are read. Until then a sequence's newest token is a
// negative number that the device knows (Batch). What a sequence computes is taken for computed as
// soon as it is enqueued, since the device does things in order; whoever turns out to have ended
// with step n has computed for nothing in step n + 1.
//
// Owns every live request. Engine thread only; callbacks run inside step() and may call
// add_request() and cancel().
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/block_manager.h"
#include "engine/output_processor.h"
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

  // Throws InvalidArgument for what could never run; any thread. The max_tokens that it will have:
  // -1 means as many as fit.
  int64_t check_request(std::span<const int32_t> prompt, const SamplingParams& params) const;
  uint64_t add_request(std::vector<int32_t> prompt, SamplingParams params, StreamCallback callback,
                       const RequestOptions& options);
  void cancel(uint64_t request_id);
  bool step(const std::atomic<bool>* give_up = nullptr);  // false: given up
  bool has_unfinished_requests() const { return !requests_.empty(); }
  EngineStats stats() const;
  void check_integrity() const;

  // For those who watch. The hook is called when the tokens of a step have been read, before the
  // finished requests are forgotten; it is given what was scheduled (seq is null for who had ended
  // before), and the stats' seconds after the last step.
  using StepHook =
      std::function<void(const Batch&, std::span<const ScheduledSequence>, const StepSeconds&)>;
  void set_step_hook(StepHook hook) { step_hook_ = std::move(hook); }
  const Scheduler& scheduler() const { return scheduler_; }
  const BlockManager& block_manager() const { return block_manager_; }

 private:
  // From schedule() until its tokens are read.
  struct Step {
    Batch batch;
    std::vector<ScheduledSequence> scheduled;
    std::vector<SampleRow> rows;  // of batch.logits_rows
  };
  bool compute(Step& step, const std::atomic<bool>* give_up);
  void make_rows(Step& step);
  void prepare_masks(const Step& step);
  void advance(Step& step);
  void read();
  void read(const Step& step, const ScheduledSequence& scheduled, std::span<const int32_t> tokens);
  bool append(Sequence& seq, int64_t row);  // false: it has ended
  void abort(Request& request);
  void forget_finished();
  void lap(double* seconds);  // adds the time since the last lap

  const int64_t max_model_len_, vocab_size_;
  const uint64_t seed_;
  const std::vector<int32_t> eos_token_ids_;
  const SpeculativeConfig speculative_config_;
  ModelRunner& runner_;
  BlockManager block_manager_;
  Scheduler scheduler_;
  std::unique_ptr<StepSampler> sampler_;
  const bool on_device_;  // sampler_ is the backend's own
  const bool overlap_;
  OutputProcessor output_processor_;
  std::array<Step, 2> steps_;  // take turns
  Step* under_way_ = nullptr;  // the one whose tokens have not been read
  StepHook step_hook_;

  std::unordered_map<uint64_t, std::unique_ptr<Request>> requests_;
  MaskWorker mask_worker_;                           // of sequences whose text must have a form
  std::vector<uint64_t> finished_;                   // to be forgotten at the end of the step,
  std::vector<std::unique_ptr<Request>> forgotten_;  // but kept as long as under_way_ may hold them
  bool in_step_ = false;
  uint64_t next_request_id_ = 1;
  EngineStats stats_;
  StepSeconds seconds_told_;  // those that the hook has been told of
  std::chrono::steady_clock::time_point last_lap_;
};

}  // namespace nanovllm
