// Scheduler: which tokens of which sequences the next step computes.
//
// One token budget a step. Running decodes go first, one token each; what is left goes to prompt
// chunks, those under way before new ones, so a long prompt never freezes the others. When KV
// blocks run out, the sequence that goes last is preempted: it gives up its blocks and is
// recomputed later. Order is priority, then arrival. Who waits with a smaller priority than some
// that run comes in with a step that leaves those out, in their place if there is no other. Drafts
// get what budget and blocks are left after everything else: nobody waits or gives way for them.
//
// Holds pointers to sequences the engine owns: from add() until finish(). Engine thread only.
#pragma once

#include <climits>
#include <set>
#include <span>
#include <vector>

#include "backend/batch.h"
#include "engine/block_manager.h"
#include "engine/sequence.h"
#include "nanovllm/config.h"

namespace nanovllm {

// A sequence's share of a step: tokens num_computed_tokens .. + num_tokens, then its draft, and
// rows first_row .. + num_rows of the logits.
struct ScheduledSequence {
  Sequence* seq;
  int64_t num_tokens;
  std::span<const int32_t> draft = {};
  int64_t first_row = 0, num_rows = 0;
  int64_t num_cached_tokens = 0;  // found in the cache by a sequence that this step admitted
};

class Scheduler {
 public:
  struct GoesBefore {
    bool operator()(const Sequence* a, const Sequence* b) const { return goes_before(*a, *b); }
  };
  Scheduler(const EngineConfig& config, BlockManager& block_manager);

  void add(Sequence& seq);     // to the waiting ones
  void finish(Sequence& seq);  // for whatever reason, at any moment but inside schedule()

  // Fills the batch and says what is in it, which may be nothing. Valid until the next call.
  std::span<const ScheduledSequence> schedule(Batch& batch);
  void postprocess(Sequence& seq, int64_t num_tokens);  // so many more are in the cache now
  void drop_step() { max_priority_ = INT_MAX; }         // the last schedule() was for nothing

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  std::span<Sequence* const> running() const { return running_; }
  const std::set<Sequence*, GoesBefore>& waiting() const { return waiting_; }
  int64_t num_preemptions() const { return num_preemptions_; }
  void check_integrity() const;  // and the block manager's

 private:
  bool schedule_decodes();  // false: somebody was preempted
  void admit_waiting();
  void schedule_drafts();
  void schedule_tokens(Sequence& seq, int64_t num_tokens);
  static int priority(const Sequence& seq) { return seq.request->options.priority; }
  bool takes_part(const Sequence& seq) const { return priority(seq) <= max_priority_; }
  void fill(Batch& batch, ScheduledSequence& scheduled) const;
  void preempt(Sequence& seq);

  const int64_t max_num_seqs_, max_num_batched_tokens_;
  BlockManager& block_manager_;
  std::set<Sequence*, GoesBefore> waiting_;
  std::vector<Sequence*> running_;  // in order
  std::vector<ScheduledSequence> scheduled_;
  int64_t budget_ = 0;          // tokens left in this step
  int max_priority_ = INT_MAX;  // of those that take part in it
  int64_t num_preemptions_ = 0;
};

}  // namespace nanovllm
