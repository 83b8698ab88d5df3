// Runs an ApiRequest on an LLM: renders the chat template, queues the prompts, and hands over one
// response body when the last of them is finished. Used by run-batch and by the HTTP server's
// requests that do not stream.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "nanovllm/llm.h"
#include "server/openai_request.h"
#include "server/openai_response.h"

namespace nanovllm::openai {

// A fresh "<prefix>-<32 hex digits>".
std::string random_id(const std::string& prefix);

// The prompts of a request; a chat's is rendered with the model's template. Throws InvalidArgument.
std::vector<Prompt> request_prompts(const LLM& llm, const ApiRequest& request);

struct Submitted {
  std::vector<uint64_t> request_ids;  // for LLM::cancel
};

// Throws InvalidArgument, with nothing left in the queue, if a prompt is refused. Otherwise done is
// called once, from inside a later LLM::step(), unless the request is cancelled. served_model is
// the "model" of the response.
Submitted submit(LLM& llm, ApiRequest request, const std::string& served_model,
                 std::function<void(const Json&)> done);

}  // namespace nanovllm::openai
