// GrammarMatcher: how far one completion has come in its form, and which tokens may come next.
//
// Belongs to a Sequence and depends on its output tokens alone, so preemption does not touch it.
// A matcher gives up if it takes too much of the processor's time: some grammars can be read in so
// many ways that a token takes seconds, which all requests would have to wait for.
//
// One thread at a time: prepare() runs beside the forward pass (see MaskWorker), everything else on
// the engine's threads before and after it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "structured/compiled_grammar.h"

namespace nanovllm {

class GrammarMatcher {
 public:
  // stop_token_ids: what ends the completion besides EOS. Neither may come before min_tokens are
  // out, unless nothing else may.
  GrammarMatcher(std::shared_ptr<const CompiledGrammar> grammar, int64_t vocab_size,
                 std::vector<int32_t> stop_token_ids, int64_t min_tokens = 0);
  ~GrammarMatcher();

  // Finds the tokens that may come next, if that is not done yet.
  void prepare();
  // After prepare(): may the token come? None may if the matcher gave up.
  bool allows(int32_t token) const {
    return (mask_[static_cast<size_t>(token) / 32] >> (token % 32)) & 1;
  }
  std::span<const uint32_t> mask() const { return mask_; }  // a bit each, as SampleRow::allowed
  bool must_stop() const { return must_stop_; }             // every such token ends the completion

  // Goes on by a token; false if the form does not allow it.
  bool accept(int32_t token);
  void advance(int32_t token);               // the same; throws if not
  bool gave_up() const { return gave_up_; }  // no token is allowed or accepted any more
  bool is_terminated() const;  // the text is complete, and EOS (if the model has one) has come

 private:
  struct Impl;
  void fill_mask();
  template <typename Work>
  void spend(Work work);
  std::unique_ptr<Impl> impl_;
  std::vector<int32_t> stop_token_ids_;
  int64_t tokens_before_stop_;  // that still have to come
  std::vector<uint32_t> mask_;
  bool prepared_ = false, must_stop_ = false, gave_up_ = false;
  double seconds_left_;  // of processor time; each token adds some
};

}  // namespace nanovllm
