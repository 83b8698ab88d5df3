// StepSampler: draws the tokens of one step from the logits of its forward pass. On the CPU the
// host does it (sampling/host_sampler.h); a device that has one of its own (Backend::make_sampler)
// keeps logits and tokens in its memory, so that the host may enqueue the next step before it knows
// the tokens of this one.
//
// A step, in this order, on the thread that calls the backend:
//   begin(rows)     before Backend::run(): what is plain in the rows can travel with the batch
//   Backend::run()
//   draw(...)       behind the pass, for all rows in turn, a bounded number at a time
//   submit()        the step is under way. Nothing of the host's is read any more, and the token of
//                   row r can be named as -1 - r in the next batch
//   wait()          at any later time: the tokens
// One step may be begun and submitted while the one before has not been waited for, so at most two
// are under way; wait() returns the older. A step that was begun and not submitted (the pass was
// given up) is forgotten by the next begin(), and -1 - r goes on naming the tokens of the last step
// that was submitted. A step may have no rows: it is begun, submitted and waited for as well.
//
// A token depends on the logits of its row and on the row alone, never on other rows. Steady steps
// allocate nothing. The destructor waits for what is under way.
#pragma once

#include <cstdint>
#include <span>

#include "nanovllm/outputs.h"

namespace nanovllm {

// Added to the logit of a token; minus infinity: the token must not come.
struct LogitBias {
  int32_t token_id;
  float bias;
};

// One row of logits, that of token Batch::logits_rows[r], and what is wanted of it: the next token
// is drawn or, in a prompt, the one that does come next is scored.
//
// Drawn in vLLM's order: allowed, biases, penalties; then the largest logit (of equal ones that of
// the smallest id) if temperature is below 1e-5 or the largest is not finite; else temperature,
// min_p, top_k, top_p and a draw. NaN counts as minus infinity. Logprobs are log_softmax of the row
// as the model left it.
//
// The spans point to memory of the host that stays where it is until submit(). What history and
// allowed hold may still change between begin() and draw(); all else is fixed at begin().
struct SampleRow {
  int32_t scored_token = -1;  // >= 0: score this one; what follows num_logprobs is without meaning
  int32_t num_logprobs = -1;  // -1: none; else so many of the most likely tokens, 0 to 20

  double temperature = 0, top_p = 1, min_p = 0;
  int64_t top_k = 0;  // 0 or less: all
  // The draw's uniform numbers are those of RandomStream(seed, index, position), or others that
  // depend on the three alone. position is that of the token drawn.
  uint64_t seed = 0;
  int32_t index = 0;
  int64_t position = 0;

  // In no order. A token comes at most twice, then once with minus infinity.
  std::span<const LogitBias> biases;
  // Bit token % 32 of word token / 32; empty: every token may come.
  std::span<const uint32_t> allowed;

  // Penalties, as Sampler::apply_penalties() computes them: repetition over all of history,
  // presence and frequency over what follows the prompt. If they are neutral history is empty.
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  std::span<const int32_t> history;  // the sequence's tokens before `position`, all known at draw()
  int64_t num_prompt_tokens = 0;     // of history
  // Names the sequence as long as it lives. On a device, it has one row with penalties a step at
  // most, and from one to the next its history only grows: counts can stay on the device, and what
  // has to be sent is what came since.
  uint64_t sequence = 0;

  bool has_penalties() const { return !history.empty(); }
};

class StepSampler {
 public:
  virtual ~StepSampler() = default;

  virtual void begin(std::span<const SampleRow> rows) = 0;  // row r is batch.logits_rows[r]
  // logits [count, vocab_size] of rows first .. first + count, a handle as Backend's calls have it.
  virtual void draw(float* logits, int64_t first, int64_t count) = 0;
  virtual void submit() = 0;

  // Waits for the older step under way: its token in each row, or the one scored. This and what
  // logprobs() gives is valid until the next wait().
  virtual std::span<const int32_t> wait() = 0;
  // Of a row that asked for them, of the step last waited for: of the token drawn or scored, then
  // of the num_logprobs most likely tokens in the order of falling logits, equal ones by id. A rank
  // is 1 + the number of larger logits; for the most likely ones it is 1, 2, 3 ...
  virtual std::span<const TokenLogprob> logprobs(int64_t row) const = 0;
};

}  // namespace nanovllm
