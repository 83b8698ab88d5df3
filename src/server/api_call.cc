#include "server/api_call.h"

#include <utility>

#include "server/api_reply.h"

namespace nanovllm {

ApiCall::ApiCall(openai::ApiRequest r, std::vector<Prompt> p, openai::ResponseContext c,
                 http::ResponderPtr answer)
    : request(std::move(r)),
      prompts(std::move(p)),
      context(std::move(c)),
      responder(std::move(answer)) {
  if (request.stream)
    stream_.emplace(request, context, prompts.size());
  else
    collector_.emplace(prompts.size());
}

void ApiCall::start(LLM& llm, EngineThread& engine) {
  if (responder->gone()) return;
  try {
    ids_ = openai::submit(llm, prompts, request,
                          [self = shared_from_this(), &llm](size_t prompt, const StreamEvent& e) {
                            self->on_event(llm, prompt, e);
                          });
  } catch (const std::exception& e) {
    ended_ = true;
    return send_error(*responder, e);
  }
  prompts.clear();
  responder->on_disconnect([&engine, ids = ids_] {
    engine.post([ids](LLM& llm) {
      for (const uint64_t id : ids) llm.cancel(id);
    });
  });
  // Only now, when nothing can be refused any more.
  if (stream_)
    responder->start_stream(200, {{"Content-Type", "text/event-stream; charset=utf-8"},
                                  {"Cache-Control", "no-cache"},
                                  {"X-Accel-Buffering", "no"}});
}

void ApiCall::on_event(LLM& llm, size_t prompt, const StreamEvent& event) {
  ticket->on_event(prompt, event);
  if (ended_) return;
  if (event.finish_reason == FinishReason::kAbort) return abort(llm);
  if (stream_) {
    const std::string events = stream_->on_event(prompt, event);
    if (!events.empty()) responder->write(events);
    if (!stream_->finished()) return;
    ended_ = true;
    responder->finish();
  } else if (collector_->on_event(prompt, event)) {
    ended_ = true;
    send_json(*responder, 200, collector_->body(request, context));
  }
}

// Also when the engine gave up on one prompt: the others are of no use any more.
void ApiCall::abort(LLM& llm) {
  if (ended_) return;
  end(503, "the request was aborted");
  for (const uint64_t id : ids_) llm.cancel(id);
}

void ApiCall::end(int status, const char* why) {
  if (std::exchange(ended_, true)) return;
  if (responder->started()) {
    responder->write(openai::sse(openai::error_body(why, "", status)) + "data: [DONE]\n\n");
    responder->finish();
  } else {
    send_error(*responder, status, why);
  }
}

}  // namespace nanovllm
