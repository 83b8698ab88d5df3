// NgramProposer: guesses the next tokens of one sequence by prompt lookup. Where the last tokens
// occurred before, what followed them then is likely to follow now; a text that edits or quotes its
// prompt consists of little else (https://github.com/apoorvumang/prompt-lookup-decoding).
//
// Owned by its sequence, whose tokens may only be appended to. Engine thread only. Every n-gram of
// prompt_lookup_min tokens is in a hash table with chains, as deflate finds its matches (RFC 1951,
// section 4), so that a step costs the same after a hundred tokens or a hundred thousand. All
// memory, at most 12 bytes a token, is taken by the first call of propose().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "nanovllm/config.h"

namespace nanovllm {

class NgramProposer {
 public:
  // max_tokens: longest the sequence can become.
  NgramProposer(const SpeculativeConfig& config, int64_t max_tokens);

  // At most min(limit, num_speculative_tokens) tokens that may follow `tokens`, the whole sequence
  // so far; none if its last prompt_lookup_min tokens are new. They follow the latest of the
  // longest matches of up to prompt_lookup_max tokens; where that runs into the end of the
  // sequence, the text is taken to go on repeating itself. Valid until the next call.
  std::span<const int32_t> propose(std::span<const int32_t> tokens, int64_t limit);

  // Earlier occurrences that one call looks at, latest first: bounds the time where one n-gram
  // makes up most of a text.
  static constexpr int kMaxCandidates = 256;

 private:
  int32_t& head(std::span<const int32_t> tokens, int64_t end);

  const int64_t min_, max_, num_speculative_tokens_, max_tokens_;
  // An n-gram is named by the position after its last token.
  std::vector<int32_t> head_;      // hash of n-gram -> the latest; -1: none. A power of two of them
  std::vector<int32_t> previous_;  // [position] the n-gram of the same hash before that one
  std::vector<int32_t> draft_;
};

}  // namespace nanovllm
