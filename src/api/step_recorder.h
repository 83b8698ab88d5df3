// StepRecorder: gathers the StepTrace of each step from the engine's state and hands it to an
// observer. Engine thread only. Its buffers are reused: a steady decode step allocates nothing.
#pragma once

#include <chrono>
#include <span>

#include "engine/llm_engine.h"
#include "nanovllm/step_trace.h"

namespace nanovllm {

class StepRecorder {
 public:
  // Made between two steps. start: the zero of the trace's seconds. The engine outlives this.
  StepRecorder(const LLMEngine& engine, int64_t max_num_batched_tokens,
               std::chrono::steady_clock::time_point start, StepObserver observer);

  // At the end of a step that has computed this; before: the engine's seconds when it began. Never
  // throws what the observer does.
  void record(const Batch& batch, std::span<const ScheduledSequence> scheduled,
              const StepSeconds& before);
  const StepTrace& snapshot();  // between two steps; an empty batch

 private:
  void record_state(const Batch& batch, std::span<const ScheduledSequence> scheduled);
  void record_batch(const Batch& batch, std::span<const ScheduledSequence> scheduled);
  void record_sequences(std::span<const ScheduledSequence> scheduled);
  void record_sequence(const Sequence& seq);
  double seconds(std::chrono::steady_clock::time_point time) const;

  const LLMEngine& engine_;
  const std::chrono::steady_clock::time_point start_;
  StepObserver observer_;
  StepTrace trace_;
  size_t num_sequences_ = 0;  // of trace_.sequences written so far
};

}  // namespace nanovllm
