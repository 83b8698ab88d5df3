#include "engine/scheduler.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace nanovllm {

Scheduler::Scheduler(const EngineConfig& config, BlockManager& block_manager)
    : max_num_seqs_(config.max_num_seqs),
      max_num_batched_tokens_(config.max_num_batched_tokens),
      block_manager_(block_manager) {
  running_.reserve(max_num_seqs_);
  scheduled_.reserve(max_num_seqs_);
}

void Scheduler::add(Sequence& seq) {
  seq.status = SequenceStatus::kWaiting;
  waiting_.insert(&seq);
}

void Scheduler::finish(Sequence& seq) {
  if (seq.status == SequenceStatus::kWaiting) waiting_.erase(&seq);
  if (seq.status == SequenceStatus::kRunning) {
    std::erase(running_, &seq);
    block_manager_.deallocate(seq);
  }
  seq.status = SequenceStatus::kFinished;
}

void Scheduler::preempt(Sequence& seq) {
  running_.pop_back();  // it is the one that goes last
  block_manager_.deallocate(seq);
  add(seq);
  ++num_preemptions_;
}

std::span<const ScheduledSequence> Scheduler::schedule(Batch& batch) {
  batch.clear();
  batch.query_start.push_back(0);
  batch.block_size = static_cast<int32_t>(block_manager_.block_size());
  scheduled_.clear();
  budget_ = max_num_batched_tokens_;

  // Should one come in before others go on? Those have every second step at least.
  const int first = waiting_.empty() || running_.empty() ? INT_MAX : priority(**waiting_.begin());
  max_priority_ = first < max_priority_ && first < priority(*running_.back()) ? first : INT_MAX;
  do {
    const bool memory_left = schedule_decodes();
    for (Sequence* seq : running_)
      if (budget_ > 0 && takes_part(*seq) && !seq->is_decoding())
        schedule_tokens(*seq, std::min(budget_, seq->num_uncomputed_tokens()));
    if (memory_left) admit_waiting();  // else the preempted one would fight for the same blocks
    // If it cannot come in yet, because it waits for what others compute, the step is theirs.
  } while (scheduled_.empty() && std::exchange(max_priority_, INT_MAX) != INT_MAX);
  schedule_drafts();
  for (ScheduledSequence& s : scheduled_) fill(batch, s);

  // Block tables of one common width, so that a backend can index them as a matrix.
  size_t width = 0;
  for (const auto& s : scheduled_) width = std::max(width, s.seq->block_table.size());
  batch.block_table_stride = static_cast<int32_t>(width);
  batch.block_tables.assign(width * scheduled_.size(), -1);
  for (size_t i = 0; i < scheduled_.size(); ++i)
    std::ranges::copy(scheduled_[i].seq->block_table, batch.block_tables.begin() + i * width);
  if (scheduled_.empty() && !(waiting_.empty() && running_.empty()))
    throw std::logic_error("Scheduler: requests are left, but none can be scheduled");
  return scheduled_;
}

bool Scheduler::schedule_decodes() {
  const int64_t preemptions_before = num_preemptions_;
  for (size_t i = 0; i < running_.size() && budget_ > 0; ++i) {
    Sequence* seq = running_[i];
    if (!takes_part(*seq) || !seq->is_decoding()) continue;
    // Those that go later have not been scheduled yet, so any of them can give way; in the end the
    // sequence itself.
    while (seq->status == SequenceStatus::kRunning && block_manager_.may_append(*seq) < 0)
      preempt(*running_.back());
    if (seq->status != SequenceStatus::kRunning) break;
    schedule_tokens(*seq, 1);
  }
  return num_preemptions_ == preemptions_before;
}

void Scheduler::admit_waiting() {
  for (auto it = waiting_.begin();
       it != waiting_.end() && budget_ > 0 && takes_part(**it) &&
       (num_running() < max_num_seqs_ || !takes_part(*running_.back()));) {
    Sequence& seq = **it;
    // The n sequences of a request share the blocks of the first one's prompt: the others wait
    // until it is computed.
    const Sequence* sibling = nullptr;
    for (const auto& other : seq.request->sequences)
      if (other.get() != &seq && other->status == SequenceStatus::kRunning) {
        sibling = other.get();
        if (sibling->num_computed_tokens >= sibling->num_prompt_tokens) break;
      }
    // Requests with the same beginning wait for each other too, block by block.
    if ((sibling && sibling->num_computed_tokens < sibling->num_prompt_tokens) ||
        std::ranges::any_of(running_, [&](const Sequence* other) {
          return block_manager_.will_share(seq, *other);
        })) {
      ++it;
      continue;
    }
    if (num_running() == max_num_seqs_) preempt(*running_.back());
    // A spare block for each running sequence keeps a newcomer from being thrown out again at once.
    auto fits = [&] { return block_manager_.can_allocate(seq, sibling, num_running()); };
    while (!fits() && !running_.empty() && !takes_part(*running_.back())) preempt(*running_.back());
    if (!fits()) break;
    block_manager_.allocate(seq, sibling);
    if (seq.num_output_tokens() == 0 && seq.index == 0)
      seq.request->output.num_cached_tokens = seq.num_computed_tokens;
    it = waiting_.erase(it);
    seq.status = SequenceStatus::kRunning;
    running_.insert(std::ranges::upper_bound(running_, &seq, GoesBefore()), &seq);
    schedule_tokens(seq, std::min(budget_, seq.num_uncomputed_tokens()));
    scheduled_.back().num_cached_tokens = seq.num_computed_tokens;
  }
}

void Scheduler::schedule_drafts() {
  for (ScheduledSequence& s : scheduled_) {
    Sequence& seq = *s.seq;
    if (!seq.proposer || !seq.is_decoding()) continue;
    // The last token that the request may have comes without being guessed.
    const int64_t left = seq.request->params.max_tokens - seq.num_output_tokens() - 1;
    s.draft = seq.proposer->propose(seq.token_ids, std::min(left, budget_));
    s.draft = s.draft.first(block_manager_.may_append(seq, std::ssize(s.draft)));
    budget_ -= std::ssize(s.draft);
  }
}

void Scheduler::schedule_tokens(Sequence& seq, int64_t num_tokens) {
  scheduled_.push_back({&seq, num_tokens});
  budget_ -= num_tokens;
}

void Scheduler::fill(Batch& batch, ScheduledSequence& s) const {
  const Sequence& seq = *s.seq;
  const int64_t first = seq.num_computed_tokens, end = first + s.num_tokens + std::ssize(s.draft),
                block_size = block_manager_.block_size();
  // Prompt positions from here on are to be scored; a preempted sequence has done some already.
  const int64_t unscored = seq.request->wants_prompt_logprobs(seq)
                               ? std::ssize(seq.request->output.prompt_logprobs)
                               : seq.num_prompt_tokens;
  s.first_row = std::ssize(batch.logits_rows);
  for (int64_t p = first; p < end; ++p) {
    if (p + 1 >= seq.num_tokens() || (p + 1 >= unscored && p + 1 < seq.num_prompt_tokens))
      batch.logits_rows.push_back(batch.num_tokens());
    batch.token_ids.push_back(p < seq.num_tokens() ? seq.token_ids[p]
                                                   : s.draft[p - seq.num_tokens()]);
    batch.positions.push_back(static_cast<int32_t>(p));
    batch.slot_mapping.push_back(
        static_cast<int32_t>(seq.block_table[p / block_size] * block_size + p % block_size));
  }
  batch.query_start.push_back(batch.num_tokens());
  batch.context_lens.push_back(static_cast<int32_t>(end));
  s.num_rows = std::ssize(batch.logits_rows) - s.first_row;
}

void Scheduler::postprocess(Sequence& seq, int64_t num_tokens) {
  seq.num_computed_tokens += num_tokens;
  block_manager_.hash_blocks(seq);
}

void Scheduler::check_integrity() const {
  auto require = [](bool ok, const char* what) {
    if (!ok) throw std::logic_error(std::string("Scheduler: ") + what);
  };
  require(num_running() <= max_num_seqs_, "too many running sequences");
  require(std::ranges::is_sorted(running_, GoesBefore()), "the running sequences are out of order");
  for (const Sequence* seq : running_) {
    require(seq->status == SequenceStatus::kRunning, "a running sequence has another status");
    require(seq->num_uncomputed_tokens() >= 1, "a running sequence has nothing to compute");
  }
  for (const Sequence* seq : waiting_) {
    require(seq->status == SequenceStatus::kWaiting, "a waiting sequence has another status");
    require(seq->block_table.empty(), "a waiting sequence holds blocks");
  }
  block_manager_.check_integrity(running_);
}

}  // namespace nanovllm
