// StepTrace: what one step of the engine did and what it left behind, for those who watch: the web
// page's engine view, trace files, tests.
//
//   llm.set_step_observer([](const nanovllm::StepTrace& trace) { ... });
//
// A snapshot in plain numbers; it holds nothing of what was written or answered. The observer gets
// a reference that is valid during the call: copy what you keep.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "nanovllm/llm.h"

namespace nanovllm {

// A sequence's share of the step: so many of its tokens, from first_position on, went through the
// model, and then its drafts.
struct StepTraceShare {
  uint64_t request_id = 0;
  int index = 0;                 // which of the request's n completions
  bool is_decode = false;        // else a chunk of the prompt, or of what a preemption threw away
  int64_t first_position = 0;    // of the sequence's tokens, prompt and output counted together
  int64_t num_tokens = 0;        // without the drafts
  int64_t num_draft_tokens = 0;  // tokens that were guessed behind them,
  int64_t num_accepted_tokens = 0;  // and how many of those were right
  int64_t num_cached_tokens = 0;    // found in the cache, in the step that admitted the sequence
};

// A sequence at the end of the step. One that ended in it is there for the last time; its blocks
// are given back already. Between two steps a cancelled one is gone without a word.
struct StepTraceSequence {
  enum class Status { kWaiting, kRunning, kFinished };
  uint64_t request_id = 0;
  int index = 0;
  Status status = Status::kWaiting;
  FinishReason finish_reason = FinishReason::kNone;
  double arrival = 0;  // seconds, as StepTrace::start
  int64_t num_prompt_tokens = 0, num_output_tokens = 0;
  int64_t num_computed_tokens = 0;   // of both, keys and values in the cache
  std::vector<int32_t> block_table;  // KV blocks, in the order of the tokens they hold
};

struct StepTraceBlock {
  int32_t num_references = 0;  // sequences that hold it; more than one: shared
  bool is_cached = false;      // its tokens can be found again, even if nobody holds it
};

struct StepTrace {
  int64_t step = 0;                // 1 is the engine's first, as EngineStats::steps
  double start = 0, duration = 0;  // seconds, of a steady clock that began with the LLM
  StepSeconds phases;              // where the duration went; they follow each other in this order,
                                   // but logits and sample take turns
  int64_t max_num_batched_tokens = 0;        // the token budget of a step
  int64_t block_size = 0;                    // tokens a KV block holds
  std::vector<StepTraceShare> batch;         // in the order of the model's rows
  std::vector<StepTraceSequence> sequences;  // ended in this step, then running, then waiting ones
  std::vector<StepTraceBlock> blocks;        // every KV block
  EngineStats stats;
};

using StepObserver = std::function<void(const StepTrace&)>;

}  // namespace nanovllm
