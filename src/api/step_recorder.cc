#include "api/step_recorder.h"

#include <algorithm>
#include <utility>

namespace nanovllm {

using Clock = std::chrono::steady_clock;
using Status = StepTraceSequence::Status;

StepRecorder::StepRecorder(const LLMEngine& engine, int64_t max_num_batched_tokens,
                           Clock::time_point start, StepObserver observer)
    : engine_(engine), start_(start), observer_(std::move(observer)) {
  trace_.max_num_batched_tokens = max_num_batched_tokens;
  trace_.block_size = engine.block_manager().block_size();
  trace_.blocks.resize(engine.block_manager().num_blocks());
}

double StepRecorder::seconds(Clock::time_point time) const {
  return std::chrono::duration<double>(time - start_).count();
}

void StepRecorder::record(const Batch& batch, std::span<const ScheduledSequence> scheduled,
                          const StepSeconds& before) {
  if (!observer_) return;
  const double end = seconds(Clock::now());
  record_state(batch, scheduled);
  const StepSeconds& now = trace_.stats.seconds;
  trace_.phases = {now.schedule - before.schedule, now.model - before.model,
                   now.logits - before.logits, now.sample - before.sample,
                   now.postprocess - before.postprocess};
  const StepSeconds& p = trace_.phases;
  trace_.duration = p.schedule + p.model + p.logits + p.sample + p.postprocess;
  trace_.start = end - trace_.duration;
  try {
    observer_(trace_);
  } catch (...) {
    observer_ = nullptr;
  }
}

const StepTrace& StepRecorder::snapshot() {
  trace_.start = seconds(Clock::now());
  record_state({}, {});
  return trace_;
}

void StepRecorder::record_state(const Batch& batch, std::span<const ScheduledSequence> scheduled) {
  trace_.stats = engine_.stats();
  trace_.step = trace_.stats.steps;
  record_batch(batch, scheduled);
  record_sequences(scheduled);
  for (int32_t id = 0; id < std::ssize(trace_.blocks); ++id)
    trace_.blocks[id] = {engine_.block_manager().num_references(id),
                         engine_.block_manager().is_cached(id)};
}

void StepRecorder::record_batch(const Batch& batch, std::span<const ScheduledSequence> scheduled) {
  trace_.batch.clear();
  for (size_t i = 0; i < scheduled.size(); ++i) {
    const ScheduledSequence& s = scheduled[i];
    if (!s.seq) continue;
    const int64_t drafts = std::ssize(s.draft), first = batch.positions[batch.query_start[i]];
    // What the sequence has got where the drafts were. Behind a wrong one it has nothing.
    const auto now = std::span(s.seq->token_ids)
                         .subspan(std::min<size_t>(first + s.num_tokens, s.seq->num_tokens()));
    const auto right = std::ranges::mismatch(s.draft, now).in1 - s.draft.begin();
    trace_.batch.push_back({
        .request_id = s.seq->request->id,
        .index = s.seq->index,
        // Logits behind the prompt are those that an output token is drawn from.
        .is_decode = s.num_tokens == 1 && first >= s.seq->num_prompt_tokens && s.num_rows > 0,
        .first_position = first,
        .num_tokens = s.num_tokens,
        .num_draft_tokens = drafts,
        .num_accepted_tokens = right,
        .num_cached_tokens = s.num_cached_tokens,
    });
  }
}

void StepRecorder::record_sequences(std::span<const ScheduledSequence> scheduled) {
  num_sequences_ = 0;
  const StepTraceShare* share = trace_.batch.data();
  for (const ScheduledSequence& s : scheduled) {
    if (!s.seq) continue;
    if (s.seq->is_finished()) {
      record_sequence(*s.seq);
      trace_.sequences[num_sequences_ - 1].num_computed_tokens =
          share->first_position + share->num_tokens + share->num_accepted_tokens;
    }
    ++share;
  }
  for (const Sequence* seq : engine_.scheduler().running()) record_sequence(*seq);
  for (const Sequence* seq : engine_.scheduler().waiting()) record_sequence(*seq);
  trace_.sequences.resize(num_sequences_);
}

void StepRecorder::record_sequence(const Sequence& seq) {
  if (num_sequences_ == trace_.sequences.size()) trace_.sequences.emplace_back();
  StepTraceSequence& s = trace_.sequences[num_sequences_++];
  s.request_id = seq.request->id;
  s.index = seq.index;
  s.status = seq.is_finished()                        ? Status::kFinished
             : seq.status == SequenceStatus::kRunning ? Status::kRunning
                                                      : Status::kWaiting;
  s.finish_reason = seq.request->output.outputs[seq.index].finish_reason;
  s.arrival = seconds(seq.request->arrival);
  s.num_prompt_tokens = seq.num_prompt_tokens;
  s.num_output_tokens = seq.num_output_tokens();
  s.num_computed_tokens = seq.num_computed_tokens;
  s.block_table.assign(seq.block_table.begin(), seq.block_table.end());
}

}  // namespace nanovllm
