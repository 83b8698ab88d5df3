// Sequence: one completion being generated, and Request: the n of them that share a prompt.
//
// Owned by the LLMEngine; the scheduler and the block manager hold plain pointers to live ones.
// Engine thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "nanovllm/llm.h"
#include "sampling/request_sampling.h"
#include "speculative/ngram_proposer.h"
#include "structured/grammar_matcher.h"
#include "tokenizer/tokenizer.h"

namespace nanovllm {

enum class SequenceStatus { kWaiting, kRunning, kFinished };

struct Request;

struct Sequence {
  Request* request = nullptr;
  int index = 0;  // which of the request's n
  SequenceStatus status = SequenceStatus::kWaiting;

  // Prompt, then output. The last one may be negative: the token is being computed, and is named as
  // in Batch. No block with it is hashed before it is known.
  std::vector<int32_t> token_ids;
  int64_t num_prompt_tokens = 0;
  int64_t num_computed_tokens = 0;  // tokens whose keys and values are in the cache

  // Kept by the block manager: block b holds tokens b * block_size onwards.
  std::vector<int32_t> block_table;
  int64_t num_hashed_blocks = 0;  // leading blocks that are full, computed and hashed
  uint64_t last_hash = 0;         // chained hash of those

  std::unique_ptr<GrammarMatcher> matcher;  // null if the text may have any form
  std::unique_ptr<NgramProposer> proposer;  // null without speculative decoding, or with a matcher

  // Kept by the output processor.
  std::unique_ptr<IncrementalDetokenizer> detokenizer;  // null without a tokenizer
  std::string held_back;  // text that may turn out to be the start of a stop string

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_output_tokens() const { return num_tokens() - num_prompt_tokens; }
  int64_t num_uncomputed_tokens() const { return num_tokens() - num_computed_tokens; }
  // A decode: everything but the newest sampled token is in the cache.
  bool is_decoding() const { return num_output_tokens() > 0 && num_uncomputed_tokens() == 1; }
  bool is_finished() const { return status == SequenceStatus::kFinished; }
};

struct Request {
  uint64_t id = 0;  // also the order of arrival
  RequestOptions options;
  SamplingParams params;     // max_tokens resolved
  RequestSampling sampling;  // each token's draw comes from (seed, index, position) alone
  uint64_t salt_hash = 0;
  std::chrono::steady_clock::time_point arrival;
  StreamCallback callback;
  RequestOutput output;
  std::vector<std::unique_ptr<Sequence>> sequences;  // n of them
  int num_unfinished = 0;

  // Whether the sequence has its last token. The scheduler is done with it a little earlier, when
  // nothing is left to compute.
  bool has_ended(const Sequence& seq) const {
    return output.outputs[seq.index].finish_reason != FinishReason::kNone;
  }
  // Prompt positions are scored by the first sequence alone.
  bool wants_prompt_logprobs(const Sequence& seq) const {
    return params.prompt_logprobs.has_value() && seq.index == 0 &&
           output.prompt_logprobs.size() < output.prompt_token_ids.size();
  }
};

// Who goes first: smaller priority, then earlier arrival, then smaller index. A strict total order.
inline bool goes_before(const Sequence& a, const Sequence& b) {
  const Request &ra = *a.request, &rb = *b.request;
  if (ra.options.priority != rb.options.priority) return ra.options.priority < rb.options.priority;
  if (ra.id != rb.id) return ra.id < rb.id;
  return a.index < b.index;
}

}  // namespace nanovllm
