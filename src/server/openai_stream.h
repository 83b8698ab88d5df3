// ChunkStream: a response as server-sent events, while it is being generated. The texts, logprobs
// and token ids of its chunks, put together, are those of the whole response.
//
// Engine thread; the request and the context outlive it.
#pragma once

#include <string>
#include <vector>

#include "nanovllm/outputs.h"
#include "server/openai_parts.h"

namespace nanovllm::openai {

// "data: ...\n\n"
std::string sse(const Json& data);

class ChunkStream {
 public:
  ChunkStream(const ApiRequest& request, const ResponseContext& context, size_t num_prompts);

  // The events to be sent for what is new, the usage and "data: [DONE]" at the end among them; ""
  // if nothing can be sent yet.
  std::string on_event(size_t prompt, const StreamEvent& event);

  bool finished() const { return prompts_left_ == 0; }

 private:
  struct Choice {
    size_t text = 0, tokens = 0;  // sent so far
    bool started = false, finished = false;
    CompletionLogprobs logprobs;
    ToolCallParser calls;  // of a chat
  };

  void add_chunks(size_t prompt, const RequestOutput& output, const CompletionOutput& completion);
  Json completion_choice(Choice& choice, size_t prompt, const RequestOutput& output,
                         const CompletionOutput& completion);
  void add_chat_chunk(Choice& choice, const RequestOutput& output,
                      const CompletionOutput& completion);
  Json chat_choice(Choice& choice, const CompletionOutput& completion, Json delta);
  void add(Json chunk_choice, const RequestOutput& output, const CompletionOutput& completion,
           bool first);
  void send(const Json& body);  // a chunk: the header's members and these

  const ApiRequest& request_;
  const ResponseContext& context_;
  std::vector<Choice> choices_;
  std::string prefix_;  // what all chunks begin with
  size_t prompts_left_;
  Usage usage_;
  std::string out_;
};

}  // namespace nanovllm::openai
