// What a request gives back, whole (RequestOutput) or as it grows (StreamEvent).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nanovllm {

struct TokenLogprob {
  int32_t token_id = -1;
  float logprob =
      0;  // natural logarithm, of the model's raw distribution (before penalties and temperature)
  int64_t rank = 0;  // 1 is the most likely token
};

// The chosen (or given) token first, then the top-N by falling logprob; the chosen one is repeated
// there if it is in it.
using PositionLogprobs = std::vector<TokenLogprob>;

enum class FinishReason { kNone, kStop, kLength, kAbort };
const char* to_string(FinishReason reason);  // "", "stop", "length", "abort"

struct CompletionOutput {
  int index = 0;  // 0 .. n-1
  std::string text;
  std::vector<int32_t> token_ids;  // as sampled; includes the stop token, if that is what ended it
  std::vector<PositionLogprobs> logprobs;  // one a token, if asked for
  FinishReason finish_reason = FinishReason::kNone;
  std::string stop_reason;  // the stop string that matched, or the stop token's id in decimal;
                            // empty for EOS and length
};

struct RequestOutput {
  uint64_t request_id = 0;
  std::vector<int32_t> prompt_token_ids;
  std::vector<PositionLogprobs>
      prompt_logprobs;                    // if asked for: one a prompt token, the first empty
  std::vector<CompletionOutput> outputs;  // n of them, by index
  int64_t num_cached_tokens = 0;  // prompt tokens whose keys and values came from the prefix cache
};

// One token of one completion, handed to the request's callback inside LLM::step(). A view: copy
// what you keep.
struct StreamEvent {
  uint64_t request_id = 0;
  int index = 0;  // which of the n completions
  std::string_view
      text;  // new text; empty while a character is incomplete or a stop string might be starting
  int32_t token_id = -1;                       // -1: no token (max_tokens was 0, or an abort)
  const PositionLogprobs* logprobs = nullptr;  // of this token, if asked for
  FinishReason finish_reason = FinishReason::kNone;
  bool request_finished = false;          // the last event of the whole request
  const RequestOutput* output = nullptr;  // everything so far; complete when request_finished
};

}  // namespace nanovllm
