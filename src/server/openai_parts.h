// The pieces that whole responses (openai_response.h) and streamed chunks (openai_stream.h) share,
// so that a stream adds up to the same JSON.
#pragma once

#include <span>
#include <string>

#include "nanovllm/outputs.h"
#include "server/openai_response.h"

namespace nanovllm::openai {

// 32 random hex digits.
std::string random_digits();

// {"id", "object", "created", "model"}
Json header(const ResponseContext& context, const char* object);

// null while it runs; "tool_calls" if it stopped and made some.
Json finish_reason(const CompletionOutput& output, int num_calls = 0);
// OpenAI's tool_calls: of a message, or of a chunk, whose entries carry their index, and a name
// only where the call begins.
Json tool_calls(const std::vector<ToolDelta::Call>& calls, bool chunk);
// The stop string, or the stop token's id as a number; null for EOS and length.
Json stop_reason(const ApiRequest& request, const CompletionOutput& output);

struct Usage {
  int64_t prompt = 0, completion = 0, cached = 0;
  void add(const RequestOutput& output);
  Json json() const;
};

// The prompt's text, as echo puts it before the answer.
std::string prompt_text(const ResponseContext& context, const Prompt& prompt);

// OpenAI's completions logprobs object, grown a token at a time. The request and the context
// outlive it.
class CompletionLogprobs {
 public:
  CompletionLogprobs(const ApiRequest& request, const ResponseContext& context);

  void add_prompt(const RequestOutput& output);
  void add(const CompletionOutput& output, size_t from);  // the tokens from that one on
  Json take();  // what was added since the last time; offsets go on

 private:
  void add(int32_t id, const PositionLogprobs& position);

  const ApiRequest& request_;
  const ResponseContext& context_;
  Json tokens_, token_logprobs_, top_, offsets_;
  int64_t offset_ = 0;  // in characters
};

// {"content": [...]} of these positions.
Json chat_logprobs(const ApiRequest& request, const ResponseContext& context,
                   std::span<const PositionLogprobs> positions);

// vLLM's prompt_logprobs: [null, {"<id>": {"logprob", "rank", "decoded_token"}}, ...]
Json prompt_logprobs(const ResponseContext& context, const RequestOutput& output);

}  // namespace nanovllm::openai
