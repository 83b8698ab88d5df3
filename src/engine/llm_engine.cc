#include "engine/llm_engine.h"

#include <xxhash.h>

#include <algorithm>
#include <utility>

#include "nanovllm/error.h"
#include "sampling/host_sampler.h"

namespace nanovllm {

LLMEngine::LLMEngine(const EngineConfig& config, const MemoryPlan& plan, const ModelConfig& model,
                     ModelRunner& runner, const Tokenizer* tokenizer)
    : max_model_len_(config.max_model_len),
      vocab_size_(model.vocab_size),
      seed_(config.seed),
      eos_token_ids_(model.eos_token_ids),
      speculative_config_(config.speculative_config),
      runner_(runner),
      block_manager_(plan.num_kv_blocks, plan.block_size, config.enable_prefix_caching),
      scheduler_(config, block_manager_),
      sampler_(runner.backend().make_sampler()),
      on_device_(sampler_ != nullptr),
      // Guessing needs the token that the guess follows.
      overlap_(on_device_ && config.async_scheduling && !config.speculative_config.enabled()),
      output_processor_(tokenizer, model.eos_token_ids) {
  const int64_t tokens = config.max_num_batched_tokens,
                seqs = std::min(config.max_num_seqs, tokens);
  if (!on_device_)
    sampler_ = std::make_unique<HostSampler>(runner.backend(), model.vocab_size, tokens);
  // No more table entries than this are in use unless sequences share most of their blocks.
  const int64_t entries =
      std::min(seqs * block_manager_.blocks_for(max_model_len_), 4 * plan.num_kv_blocks);
  for (Step& step : steps_) {
    step.batch.reserve(tokens, seqs, entries);
    step.scheduled.reserve(seqs);
    step.rows.reserve(tokens);
  }
}

int64_t LLMEngine::check_request(std::span<const int32_t> prompt,
                                 const SamplingParams& params) const {
  params.validate(vocab_size_);
  const auto length = static_cast<int64_t>(prompt.size());
  if (prompt.empty()) throw InvalidArgument("prompt", "is empty");
  for (int32_t id : prompt)
    if (id < 0 || id >= vocab_size_)
      throw InvalidArgument("prompt", "holds token id " + std::to_string(id) +
                                          ", outside the vocabulary of " +
                                          std::to_string(vocab_size_));
  if (length > max_model_len_)
    throw InvalidArgument("prompt", "has " + std::to_string(length) +
                                        " tokens, but the longest sequence is " +
                                        std::to_string(max_model_len_) + " (max_model_len)");
  const int64_t max_tokens =
      params.max_tokens < 0 ? std::max<int64_t>(1, max_model_len_ - length) : params.max_tokens;
  if (length + max_tokens > max_model_len_)
    throw InvalidArgument("max_tokens",
                          "is " + std::to_string(max_tokens) + " after a prompt of " +
                              std::to_string(length) + " tokens, but the longest sequence is " +
                              std::to_string(max_model_len_) + " tokens (max_model_len)");
  // The last token's keys and values are never needed.
  const int64_t blocks = block_manager_.blocks_for(length + std::max<int64_t>(max_tokens, 1) - 1);
  if (blocks > block_manager_.num_blocks())
    throw InvalidArgument("max_tokens", "is " + std::to_string(max_tokens) + " after a prompt of " +
                                            std::to_string(length) + " tokens, which needs " +
                                            std::to_string(blocks) + " KV cache blocks of " +
                                            std::to_string(block_manager_.num_blocks()));
  return max_tokens;
}

uint64_t LLMEngine::add_request(std::vector<int32_t> prompt, SamplingParams params,
                                StreamCallback callback, const RequestOptions& options) {
  params.max_tokens = check_request(prompt, params);
  const auto length = static_cast<int64_t>(prompt.size());
  auto request = std::make_unique<Request>();
  request->id = next_request_id_++;
  request->options = options;
  request->sampling = RequestSampling(params,
                                      params.seed ? static_cast<uint64_t>(*params.seed)
                                                  : XXH3_64bits_withSeed(&request->id, 8, seed_),
                                      length, eos_token_ids_);
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
    seq->token_ids.reserve(length + std::max<int64_t>(params.max_tokens, 1));
    seq->token_ids = prompt;
    seq->num_prompt_tokens = length;
    seq->block_table.reserve(block_manager_.blocks_for(length + params.max_tokens));
    if (const auto& grammar = params.structured_outputs.compiled)
      seq->matcher = std::make_unique<GrammarMatcher>(grammar, vocab_size_, params.stop_token_ids,
                                                      params.min_tokens);
    else if (speculative_config_.enabled() &&
             !(on_device_ && request->sampling.has_penalties()))  // see SampleRow::sequence
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
  last_lap_ = std::chrono::steady_clock::now();
  if (!under_way_) seconds_told_ = stats_.seconds;
  Step& step = steps_[under_way_ == &steps_[0]];
  const auto scheduled = scheduler_.schedule(step.batch);
  step.scheduled.assign(scheduled.begin(), scheduled.end());
  lap(&stats_.seconds.schedule);
  const bool done = scheduled.empty() || compute(step, give_up);
  if (!done) {
    ++stats_.steps_dropped;
    scheduler_.drop_step();
    for (const ScheduledSequence& s : scheduled)
      if (!s.draft.empty()) block_manager_.trim(*s.seq);
  } else if (!scheduled.empty()) {
    advance(step);
    under_way_ = &step;
  }
  if (done && under_way_ && (!overlap_ || scheduled.empty())) read();
  forget_finished();
  if (under_way_ && requests_.empty()) {  // nobody is left to call step() again
    read();
    forget_finished();
  }
  in_step_ = false;
  lap(&stats_.seconds.postprocess);
  return done;
}

void LLMEngine::lap(double* seconds) {
  const auto before = std::exchange(last_lap_, std::chrono::steady_clock::now());
  *seconds += std::chrono::duration<double>(last_lap_ - before).count();
}

// The pass, the tokens of the step before, which is waited for meanwhile, and behind the pass the
// draws, a bounded number of rows at a time, as if every draft were right.
bool LLMEngine::compute(Step& step, const std::atomic<bool>* give_up) {
  for (const ScheduledSequence& s : step.scheduled)
    s.seq->token_ids.insert(s.seq->token_ids.end(), s.draft.begin(), s.draft.end());
  make_rows(step);
  sampler_->begin(step.rows);
  if (!under_way_) prepare_masks(step);
  const bool done = runner_.run(step.batch, give_up);
  lap(&stats_.seconds.model);
  if (done && under_way_) {
    read();
    prepare_masks(step);
  }
  mask_worker_.wait();
  lap(&stats_.seconds.model);
  const auto rows = std::ssize(step.rows), most = runner_.max_logits_rows();
  for (int64_t first = 0; done && first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    float* const logits =
        runner_.compute_logits(std::span(step.batch.logits_rows).subspan(first, count));
    lap(&stats_.seconds.logits);
    sampler_->draw(logits, first, count);
    lap(&stats_.seconds.sample);
  }
  if (done) sampler_->submit();
  for (const ScheduledSequence& s : step.scheduled)
    s.seq->token_ids.resize(s.seq->token_ids.size() - s.draft.size());
  return done;
}

// A row is a prompt position to be scored, or a sequence's last token or draft, from which the next
// is drawn.
void LLMEngine::make_rows(Step& step) {
  step.rows.clear();
  for (const ScheduledSequence& s : step.scheduled) {
    const Sequence& seq = *s.seq;
    const Request& request = *seq.request;
    for (int64_t r = s.first_row; r < s.first_row + s.num_rows; ++r) {
      const int64_t next = step.batch.positions[step.batch.logits_rows[r]] + 1;
      SampleRow& row = step.rows.emplace_back();
      if (next < seq.num_prompt_tokens) {
        row.scored_token = seq.token_ids[next];
        row.num_logprobs = static_cast<int32_t>(*request.params.prompt_logprobs);
        row.position = next;
      } else if (request.params.max_tokens > 0) {  // else nobody looks at what is drawn
        row = request.sampling.row(std::span(seq.token_ids).first(next), seq.index,
                                   request.id * 1024 + seq.index);
        if (seq.matcher) row.allowed = seq.matcher->mask();
      }
    }
  }
}

// Beside the pass: what may come next depends on the tokens so far alone.
void LLMEngine::prepare_masks(const Step& step) {
  for (const ScheduledSequence& s : step.scheduled)
    if (!s.seq->is_finished()) mask_worker_.add(s.seq->matcher.get());
}

// What is under way counts as computed, but for the drafts, and each sequence that draws a token
// has it, whatever it is. Who needs no more than that one token is not scheduled again.
void LLMEngine::advance(Step& step) {
  for (ScheduledSequence& s : step.scheduled) {
    Sequence& seq = *s.seq;
    Request& request = *seq.request;
    if (seq.is_finished()) {  // by the tokens of the step before
      s.seq = nullptr;
      continue;
    }
    if (!seq.is_decoding()) stats_.prompt_tokens_computed += s.num_tokens;
    if (request.wants_prompt_logprobs(seq)) {
      auto& scores = request.output.prompt_logprobs;
      scores.resize(std::max<size_t>(
          scores.size(),
          std::min(seq.num_computed_tokens + s.num_tokens + 1, seq.num_prompt_tokens)));
    }
    scheduler_.postprocess(seq, s.num_tokens);
    if (seq.num_uncomputed_tokens() > 0) continue;
    const int64_t row = s.first_row + s.num_rows - std::ssize(s.draft) - 1;
    seq.token_ids.push_back(static_cast<int32_t>(-1 - row));
    if (seq.num_output_tokens() >= request.params.max_tokens) scheduler_.finish(seq);
  }
}

void LLMEngine::read() {
  const Step& step = *std::exchange(under_way_, nullptr);
  const auto tokens = sampler_->wait();
  lap(&stats_.seconds.model);
  ++stats_.steps;
  for (const ScheduledSequence& s : step.scheduled)
    if (s.seq) read(step, s, tokens);
  lap(&stats_.seconds.postprocess);
  auto has_share = [](const Sequence* seq) { return seq != nullptr; };
  if (step_hook_ && std::ranges::any_of(step.scheduled, has_share, &ScheduledSequence::seq))
    step_hook_(step.batch, step.scheduled, seconds_told_);
  lap(&stats_.seconds.postprocess);
  seconds_told_ = stats_.seconds;
  forgotten_.clear();  // none of them has a share in a later step
}

// A guess is right if it is the token drawn: the same draw from the same logits as in a step of its
// own, which has been spared. What was drawn behind a wrong one is forgotten.
void LLMEngine::read(const Step& step, const ScheduledSequence& scheduled,
                     std::span<const int32_t> tokens) {
  Sequence& seq = *scheduled.seq;
  Request& request = *seq.request;
  const std::span<const int32_t> draft = scheduled.draft;
  // The last token's row, and then those of the draft.
  int64_t row = scheduled.first_row + scheduled.num_rows - std::ssize(draft) - 1;
  const bool draws = seq.token_ids.back() < 0;
  if (draws) seq.token_ids.back() = tokens[row];
  if (request.has_ended(seq)) return;  // cancelled meanwhile
  for (int64_t r = scheduled.first_row; r < scheduled.first_row + scheduled.num_rows; ++r)
    if (step.rows[r].scored_token >= 0) {
      const auto logprobs = sampler_->logprobs(r);
      request.output.prompt_logprobs[step.rows[r].position].assign(logprobs.begin(),
                                                                   logprobs.end());
    }
  if (!draws) return;

  stats_.num_drafts += !draft.empty();
  stats_.num_draft_tokens += std::ssize(draft);
  for (int64_t i = 0;; ++i, ++row) {
    const bool right = i < std::ssize(draft) && draft[i] == tokens[row];
    stats_.num_accepted_tokens += right;
    if (!append(seq, row)) return;
    if (!right) break;
    seq.token_ids.push_back(tokens[row + 1]);
    scheduler_.postprocess(seq, 1);
  }
  if (!draft.empty()) block_manager_.trim(seq);
}

bool LLMEngine::append(Sequence& seq, int64_t row) {
  Request& request = *seq.request;
  try {
    if (request.params.max_tokens > 0) {
      if (seq.matcher) seq.matcher->advance(seq.token_ids.back());
      ++stats_.tokens_generated;
      output_processor_.append(
          seq, request.params.logprobs ? sampler_->logprobs(row) : std::span<const TokenLogprob>());
    } else {
      seq.token_ids.pop_back();  // nobody asked for it
      output_processor_.end(seq, FinishReason::kLength);
    }
  } catch (...) {  // a callback or matcher that throws ends its own request and nobody else's
    abort(request);
  }
  if (!request.has_ended(seq)) return true;
  scheduler_.finish(seq);
  if (request.num_unfinished == 0) finished_.push_back(request.id);
  return false;
}

void LLMEngine::forget_finished() {
  for (uint64_t id : finished_) {
    const auto it = requests_.find(id);
    if (it == requests_.end()) continue;
    stats_.prompt_tokens_cached += it->second->output.num_cached_tokens;
    forgotten_.push_back(std::move(it->second));
    requests_.erase(it);
  }
  finished_.clear();
  if (!under_way_) forgotten_.clear();
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
