// Runs an ApiRequest on an LLM: compiles its schema, renders the chat template, tokenizes, queues
// the prompts, and puts together one response body when the last of them is finished.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "nanovllm/llm.h"
#include "server/openai_parts.h"
#include "server/openai_request.h"
#include "server/openai_response.h"

namespace nanovllm::openai {

// A response's context; `id` is "cmpl-" or "chatcmpl-" and `digits`. llm outlives it.
ResponseContext make_context(const LLM& llm, const ApiRequest& request, const std::string& model,
                             const std::string& digits);

// What a request needs of the model before anything else: its schema or grammar compiled, its tools
// in the model's own format. Any thread, but one that may wait for seconds: see needs_compiling().
// Throws InvalidArgument naming the field.
void prepare(const LLM& llm, ApiRequest& request);
bool needs_compiling(const ApiRequest& request);

// The prompts of a request as token ids (as text, where there is no tokenizer to refuse it); a
// chat's is rendered with the model's template. Any thread. Throws InvalidArgument.
std::vector<Prompt> request_prompts(const LLM& llm, const ApiRequest& request);

// Refuses at once what the engine would refuse when its turn comes: too long, ids that are none.
// Any thread. Throws InvalidArgument.
void check_prompts(const LLM& llm, const ApiRequest& request, const std::vector<Prompt>& prompts);

// Engine thread. Queues the prompts, all or (InvalidArgument) none, and gives their ids for
// LLM::cancel. on_event is told of each prompt's events; what it throws ends that prompt's request.
using EventCallback = std::function<void(size_t prompt, const StreamEvent&)>;
std::vector<uint64_t> submit(LLM& llm, const std::vector<Prompt>& prompts,
                             const ApiRequest& request, EventCallback on_event);

// Waits for all prompts of a request.
class Collector {
 public:
  explicit Collector(size_t num_prompts) : outputs_(num_prompts), left_(num_prompts) {}
  bool on_event(size_t prompt, const StreamEvent& event);  // true: that was the last
  Json body(const ApiRequest& request, const ResponseContext& context) const;

 private:
  std::vector<RequestOutput> outputs_;
  size_t left_;
};

// All of the above, for who wants the body only. done is called once, from inside a later
// LLM::step(), unless the request is cancelled. model is the "model" of the response.
std::vector<uint64_t> submit(LLM& llm, ApiRequest request, const std::string& model,
                             std::function<void(const Json&)> done);

}  // namespace nanovllm::openai
