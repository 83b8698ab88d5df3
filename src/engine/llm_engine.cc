#include "engine/llm_engine.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "nanovllm/error.h"

namespace nanovllm {

LLMEngine::LLMEngine(const EngineConfig& config, const MemoryPlan& plan, const ModelConfig& model,
                     ModelRunner& runner, const Tokenizer* tokenizer)
    : max_model_len_(config.max_model_len),
      vocab_size_(model.vocab_size),
      seed_(config.seed),
      speculative_config_(config.speculative_config),
      runner_(runner),
      block_manager_(plan.num_kv_blocks, plan.block_size, config.enable_prefix_caching),
      scheduler_(config, block_manager_),
      output_processor_(tokenizer, model.eos_token_ids) {
  const int threads = runner.backend().num_threads();
  samplers_.reserve(threads);  // a sampler that is copied loses the memory it reserved
  for (int i = 0; i < threads; ++i) samplers_.emplace_back(model.vocab_size, model.eos_token_ids);
  const int64_t tokens = config.max_num_batched_tokens,
                seqs = std::min(config.max_num_seqs, tokens);
  // No more table entries than this are in use unless sequences share most of their blocks.
  batch_.reserve(
      tokens, seqs,
      std::min(seqs * block_manager_.blocks_for(max_model_len_), 4 * plan.num_kv_blocks));
  sampled_.reserve(tokens);
  sampled_logprobs_.reserve(tokens);
}

uint64_t LLMEngine::add_request(std::vector<int32_t> prompt, SamplingParams params,
                                StreamCallback callback, const RequestOptions& options) {
  params.validate(vocab_size_);
  const auto length = static_cast<int64_t>(prompt.size());
  if (prompt.empty()) throw InvalidArgument("prompt", "is empty");
  for (int32_t id : prompt)
    if (id < 0 || id >= vocab_size_)
      throw InvalidArgument("prompt", "holds token id " + std::to_string(id) +
                                          ", outside the vocabulary of " +
                                          std::to_string(vocab_size_));
  if (params.max_tokens < 0) params.max_tokens = std::max<int64_t>(1, max_model_len_ - length);
  if (length + params.max_tokens > max_model_len_)
    throw InvalidArgument("max_tokens",
                          "is " + std::to_string(params.max_tokens) + " after a prompt of " +
                              std::to_string(length) + " tokens, but the longest sequence is " +
                              std::to_string(max_model_len_) + " tokens (max_model_len)");
  // The last token's keys and values are never needed.
  const int64_t blocks =
      block_manager_.blocks_for(length + std::max<int64_t>(params.max_tokens, 1) - 1);
  if (blocks > block_manager_.num_blocks())
    throw InvalidArgument("max_tokens", "is " + std::to_string(params.max_tokens) +
                                            " after a prompt of " + std::to_string(length) +
                                            " tokens, which needs " + std::to_string(blocks) +
                                            " KV cache blocks of " +
                                            std::to_string(block_manager_.num_blocks()));

  auto request = std::make_unique<Request>();
  request->id = next_request_id_++;
  request->options = options;
  request->seed = params.seed ? static_cast<uint64_t>(*params.seed)
                              : XXH3_64bits_withSeed(&request->id, 8, seed_);
  request->arrival = std::chrono::steady_clock::now();
  request->salt_hash = XXH3_64bits(options.cache_salt.data(), options.cache_salt.size());
  request->callback = std::move(callback);
  request->num_unfinished = static_cast<int>(params.n);
  request->output.request_id = request->id;
  if (params.prompt_logprobs)
    request->output.prompt_logprobs.emplace_back();  // nothing precedes the first token
  for (int i = 0; i < params.n; ++i) {
    auto seq = std::make_unique<Sequence>();
    seq->request = request.get();
    seq->index = i;
    // Reserved now, so that no step has to.
    seq->token_ids.reserve(length + params.max_tokens);
    seq->token_ids = prompt;
    seq->num_prompt_tokens = length;
    seq->block_table.reserve(blocks);
    if (const auto& grammar = params.structured_outputs.compiled)
      seq->matcher = std::make_unique<GrammarMatcher>(grammar, vocab_size_, params.stop_token_ids);
    else if (speculative_config_.enabled())
      seq->proposer =
          std::make_unique<NgramProposer>(speculative_config_, length + params.max_tokens);
    request->sequences.push_back(std::move(seq));
    CompletionOutput& out = request->output.outputs.emplace_back();
    out.index = i;
    out.token_ids.reserve(params.max_tokens);
  }
  request->output.prompt_token_ids = std::move(prompt);
  request->params = std::move(params);
  for (auto& seq : request->sequences) {
    output_processor_.start(*seq);
    scheduler_.add(*seq);
  }
  const uint64_t id = request->id;
  requests_.emplace(id, std::move(request));
  return id;
}

void LLMEngine::cancel(uint64_t request_id) {
  const auto it = requests_.find(request_id);
  const bool inside = std::exchange(in_step_, true);  // a callback may cancel others
  if (it != requests_.end()) abort(*it->second);
  in_step_ = inside;
  if (!inside) forget_finished();
}

void LLMEngine::abort(Request& request) {
  const int unfinished = request.num_unfinished;
  if (unfinished == 0) return;
  request.num_unfinished = 1;  // the callback hears of it once
  Sequence* last = nullptr;
  for (auto& seq : request.sequences) {
    scheduler_.finish(*seq);
    FinishReason& reason = request.output.outputs[seq->index].finish_reason;
    if (reason != FinishReason::kNone) continue;
    reason = FinishReason::kAbort;
    last = seq.get();
  }
  finished_.push_back(request.id);
  try {
    output_processor_.end(*last, FinishReason::kAbort);
  } catch (...) {  // whoever is being told of an abort has no say in it
  }
}

bool LLMEngine::step(const std::atomic<bool>* give_up) {
  in_step_ = true;
  const StepSeconds before = stats_.seconds;
  last_lap_ = std::chrono::steady_clock::now();
  const auto scheduled = scheduler_.schedule(batch_);
  lap(&stats_.seconds.schedule);
  for (const ScheduledSequence& s : scheduled) mask_worker_.add(s.seq->matcher.get());
  const bool done = scheduled.empty() || runner_.run(batch_, give_up);
  mask_worker_.wait();
  lap(&stats_.seconds.model);
  if (done) {
    stats_.steps += !scheduled.empty();
    sample(scheduled);
    for (const ScheduledSequence& s : scheduled) postprocess(s);
  } else {
    ++stats_.steps_dropped;
    scheduler_.drop_step();
    for (const ScheduledSequence& s : scheduled)
      if (!s.draft.empty()) block_manager_.trim(*s.seq);
  }
  lap(&stats_.seconds.postprocess);
  if (step_hook_ && done && !scheduled.empty()) step_hook_(scheduled, before);
  in_step_ = false;
  forget_finished();
  lap(&stats_.seconds.postprocess);
  return done;
}

void LLMEngine::lap(double* seconds) {
  const auto before = std::exchange(last_lap_, std::chrono::steady_clock::now());
  *seconds += std::chrono::duration<double>(last_lap_ - before).count();
}

// Reads the logits of the step, a bounded number of rows at a time, as if every draft were right.
void LLMEngine::sample(std::span<const ScheduledSequence> scheduled) {
  const auto rows = static_cast<int64_t>(batch_.logits_rows.size());
  sampled_.assign(rows, -1);
  sampled_logprobs_.clear();
  sampled_logprobs_.resize(rows);
  for (const ScheduledSequence& s : scheduled) {
    Sequence& seq = *s.seq;
    auto& scores = seq.request->output.prompt_logprobs;
    if (seq.request->wants_prompt_logprobs(seq))
      scores.resize(std::max<size_t>(
          scores.size(),
          std::min(seq.num_computed_tokens + s.num_tokens + 1, seq.num_prompt_tokens)));
    seq.token_ids.insert(seq.token_ids.end(), s.draft.begin(), s.draft.end());
  }
  for (int64_t first = 0; first < rows; first += ModelRunner::kMaxLogitsRows) {
    const int64_t count = std::min(ModelRunner::kMaxLogitsRows, rows - first);
    const auto logits = runner_.logits(std::span(batch_.logits_rows).subspan(first, count));
    lap(&stats_.seconds.logits);
    auto read = [&](int64_t i, int thread) {
      read_row(scheduled, first + i, logits.subspan(i * vocab_size_, vocab_size_),
               samplers_[thread]);
    };
    runner_.backend().parallel_for(count, std::ref(read));
    lap(&stats_.seconds.sample);
  }
  for (const ScheduledSequence& s : scheduled)
    s.seq->token_ids.resize(s.seq->token_ids.size() - s.draft.size());
}

// A row is a prompt position to be scored, or a sequence's last token or draft, from which the next
// is drawn. Runs on any thread: it writes what belongs to this row alone.
void LLMEngine::read_row(std::span<const ScheduledSequence> scheduled, int64_t row,
                         std::span<float> logits, Sampler& sampler) {
  const auto after = std::ranges::upper_bound(scheduled, row, {}, &ScheduledSequence::first_row);
  Sequence& seq = *std::prev(after)->seq;
  Request& request = *seq.request;
  const int64_t next = batch_.positions[batch_.logits_rows[row]] + 1;
  if (next < seq.num_prompt_tokens) {
    request.output.prompt_logprobs[next] =
        sampler.logprobs(logits, seq.token_ids[next], *request.params.prompt_logprobs);
  } else if (request.params.max_tokens > 0) {
    sampled_[row] = sampler.sample(seq, next, logits);
    if (request.params.logprobs)
      sampled_logprobs_[row] = sampler.logprobs(logits, sampled_[row], *request.params.logprobs);
  }
}

// A guess is right if it is the token drawn: the same draw from the same logits as in a step of its
// own, which has been spared. What was drawn behind a wrong one is forgotten.
void LLMEngine::postprocess(const ScheduledSequence& scheduled) {
  Sequence& seq = *scheduled.seq;
  const std::span<const int32_t> draft = scheduled.draft;
  if (seq.is_finished()) return;  // cancelled by a callback of this step
  if (!seq.is_decoding()) stats_.prompt_tokens_computed += scheduled.num_tokens;
  stats_.num_drafts += !draft.empty();
  stats_.num_draft_tokens += std::ssize(draft);
  scheduler_.postprocess(seq, scheduled.num_tokens);
  if (seq.num_uncomputed_tokens() > 0) return;

  // The last token's row, and then those of the draft.
  int64_t row = scheduled.first_row + scheduled.num_rows - std::ssize(draft) - 1;
  for (int64_t i = 0;; ++i, ++row) {
    const bool right = i < std::ssize(draft) && draft[i] == sampled_[row];
    stats_.num_accepted_tokens += right;
    auto* const logprobs = sampled_logprobs_[row].empty() ? nullptr : &sampled_logprobs_[row];
    if (!append(seq, sampled_[row], logprobs)) return;
    if (!right) break;
    scheduler_.postprocess(seq, 1);
  }
  if (!draft.empty()) block_manager_.trim(seq);
}

bool LLMEngine::append(Sequence& seq, int32_t token, PositionLogprobs* logprobs) {
  Request& request = *seq.request;
  FinishReason reason = FinishReason::kLength;
  try {
    if (token >= 0 && seq.matcher) seq.matcher->advance(token);
    if (token >= 0) {
      ++stats_.tokens_generated;
      reason = output_processor_.append(seq, token, logprobs);
    } else {
      output_processor_.end(seq, reason);
    }
  } catch (...) {  // a callback or matcher that throws ends its own request and nobody else's
    abort(request);
  }
  if (reason != FinishReason::kNone && !seq.is_finished()) {
    scheduler_.finish(seq);
    if (request.num_unfinished == 0) finished_.push_back(request.id);
  }
  return !seq.is_finished();
}

void LLMEngine::forget_finished() {
  for (uint64_t id : finished_) {
    if (const auto it = requests_.find(id); it != requests_.end()) {
      stats_.prompt_tokens_cached += it->second->output.num_cached_tokens;
      requests_.erase(it);
    }
  }
  finished_.clear();
}

EngineStats LLMEngine::stats() const {
  EngineStats s = stats_;
  s.preemptions = scheduler_.num_preemptions();
  s.running = scheduler_.num_running();
  s.waiting = scheduler_.num_waiting();
  s.kv_blocks_used = block_manager_.num_used_blocks();
  s.kv_blocks_total = block_manager_.num_blocks();
  return s;
}

void LLMEngine::check_integrity() const { scheduler_.check_integrity(); }

}  // namespace nanovllm
