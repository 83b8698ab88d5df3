// ApiCall: one completion or chat request on its way through the server. A worker parses and
// tokenizes it, the engine's thread queues it and hears of its tokens, the I/O thread sends them;
// the call goes from one to the next, and one thread at a time works on it.
//
// It is kept alive by the engine's request: when that is forgotten, the call ends and the responder
// with it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "server/admission.h"
#include "server/engine_thread.h"
#include "server/http_server.h"
#include "server/openai_service.h"
#include "server/openai_stream.h"

namespace nanovllm {

class ApiCall : public std::enable_shared_from_this<ApiCall> {
 public:
  // Worker thread. prompts: of the request, tokenized.
  ApiCall(openai::ApiRequest request, std::vector<Prompt> prompts, openai::ResponseContext context,
          http::ResponderPtr responder);

  // Engine thread: queues the prompts, or answers with why not. If the client leaves, a task posted
  // to `engine` takes them out of the queue.
  void start(LLM& llm, EngineThread& engine);
  // Engine thread: takes it out of the engine and tells the client, if it is still there.
  void abort(LLM& llm);
  // Engine thread: tells the client that there will be no (more) answer.
  void end(int status, const char* why);

  openai::ApiRequest request;
  std::vector<Prompt> prompts;
  const openai::ResponseContext context;
  const http::ResponderPtr responder;
  std::unique_ptr<Ticket> ticket;  // its place in the queue and in the engine

 private:
  void on_event(LLM& llm, size_t prompt, const StreamEvent& event);

  std::optional<openai::ChunkStream> stream_;
  std::optional<openai::Collector> collector_;
  std::vector<uint64_t> ids_;
  bool ended_ = false;
};

}  // namespace nanovllm
