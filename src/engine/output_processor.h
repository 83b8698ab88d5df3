// OutputProcessor: what happens to a token once it is sampled. It becomes text, piece by piece; it
// may end the sequence; the request's callback hears of it. Engine thread only.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/sequence.h"

namespace nanovllm {

class OutputProcessor {
 public:
  // tokenizer: may be null (token ids only), else outlives this.
  OutputProcessor(const Tokenizer* tokenizer, std::vector<int32_t> eos_token_ids);

  void start(Sequence& seq) const;  // a fresh detokenizer
  // Appends the sequence's newest token to its output, which says whether it has ended with it.
  // logprobs: of the token, empty if they are not wanted.
  void append(Sequence& seq, std::span<const TokenLogprob> logprobs);
  // Ends the sequence without another token: its prompt is scored and max_tokens is 0, or it is
  // aborted.
  void end(Sequence& seq, FinishReason reason);

 private:
  bool stops_at(const Sequence& seq, int32_t token, CompletionOutput& out) const;
  // Appends to seq.held_back, moves what is certain to the output, and returns true if a stop
  // string was found.
  bool advance_text(Sequence& seq, const std::string& piece, bool is_last,
                    CompletionOutput& out) const;
  void emit(Sequence& seq, int32_t token, size_t text_from, FinishReason reason);

  const Tokenizer* tokenizer_;
  const std::vector<int32_t> eos_token_ids_;
};

}  // namespace nanovllm
