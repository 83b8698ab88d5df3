// RequestOutputs as the JSON bodies of OpenAI's API, with vLLM's extensions.
//
// Token strings come through TokenText, so nothing here knows a tokenizer. Logprobs are written so
// that they read back as the same float32; minus infinity, which JSON lacks, is written as -9999.0,
// as vLLM does.
#pragma once

#include <functional>
#include <span>
#include <string>

#include "nanovllm/outputs.h"
#include "server/openai_request.h"

namespace nanovllm::openai {

struct ResponseContext {
  std::string id;                                  // "cmpl-..." or "chatcmpl-..."
  int64_t created = 0;                             // Unix seconds
  std::string model;                               // the served model's name
  std::function<std::string(int32_t)> token_text;  // "token_id:N" if there is no tokenizer
  std::function<std::string(const std::vector<int32_t>&)> decode;  // "" if there is no tokenizer
};

// outputs: one a prompt, in order. Choices are numbered prompt * n + completion.
Json completion_body(const ApiRequest& request, const ResponseContext& context,
                     std::span<const RequestOutput> outputs);
// output: of the one rendered prompt.
Json chat_body(const ApiRequest& request, const ResponseContext& context,
               const RequestOutput& output);
// {"error": {"message", "type", "param", "code"}}; 400 for InvalidArgument. param is null where no
// field is to blame.
Json error_body(const std::string& message, const std::string& param, int status);
Json error_body(const Error& error, int status);

}  // namespace nanovllm::openai
