#include "server/engine_view.h"

#include <algorithm>
#include <deque>
#include <utility>
#include <vector>

#include "server/api_reply.h"

namespace nanovllm {

using openai::Json;

namespace {

std::string event(const char* name, const std::string& data) {
  return std::string("event: ") + name + "\ndata: " + data + "\n\n";
}

}  // namespace

// What the tasks and the observer share. Engine thread only.
class EngineView::State : public std::enable_shared_from_this<State> {
 public:
  State(EngineThread& engine, Options options) : options_(std::move(options)), engine_(engine) {}

  Json facts(LLM& llm) const {
    const MemoryPlan& plan = llm.memory_plan();
    return {{"model", options_.model},
            {"num_blocks", plan.num_kv_blocks},
            {"block_size", plan.block_size},
            {"max_model_len", plan.max_model_len},
            {"max_num_batched_tokens", options_.config.max_num_batched_tokens},
            {"max_num_seqs", options_.config.max_num_seqs},
            {"paused", engine_.paused()}};
  }

  std::string frame(const StepTrace& trace) const {
    std::string text = step_json(trace);
    if (!options_.queue) return text;
    text.back() = ',';
    return text + "\"queue\":" + queue_json(options_.queue()) + "}";
  }

  void add_viewer(LLM& llm, const http::ResponderPtr& responder) {
    if (closed_ || viewers_.size() >= kMaxViewers)
      return send_error(
          *responder, 503,
          closed_ ? "the server is shutting down" : "too many are watching the engine");
    if (responder->gone()) return;
    responder->start_stream(200, {{"Content-Type", "text/event-stream"},
                                  {"Cache-Control", "no-store"},
                                  {"X-Accel-Buffering", "no"}});
    std::string first = event("hello", facts(llm).dump());
    for (const std::string& step : history_) first += step;
    responder->write(first);
    viewers_.push_back(responder);
    observe(llm);
    responder->on_disconnect([self = shared_from_this()] {
      self->engine_.post([self](LLM& llm) { self->drop_gone(llm); });
    });
  }

  // Watches the engine as long as anybody wants to know.
  void observe(LLM& llm) {
    if (viewers_.empty() && !options_.observer) return llm.set_step_observer(nullptr);
    llm.set_step_observer([self = shared_from_this()](const StepTrace& trace) {
      if (self->options_.observer) self->options_.observer(trace);
      if (!self->viewers_.empty()) self->tell_step(trace);
    });
  }

  void set_paused(LLM&, bool paused) {
    engine_.set_paused(paused);
    const std::string text = event("paused", Json({{"paused", paused}}).dump());
    for (const auto& viewer : viewers_) viewer->write(text);
  }

  void step(LLM& llm) {
    if (!engine_.paused()) set_paused(llm, true);
    if (llm.has_unfinished_requests()) engine_.step_once();
  }

  void close() {
    closed_ = true;
    for (const auto& viewer : std::exchange(viewers_, {})) viewer->finish();
    if (engine_.paused()) engine_.set_paused(false);  // what runs is to be finished
  }

 private:
  void tell_step(const StepTrace& trace) {
    history_.push_back(event("step", frame(trace)));
    history_bytes_ += history_.back().size();
    for (const auto& viewer : viewers_)
      if (viewer->unsent() < kMaxUnsentBytes) viewer->write(history_.back());
    while (history_.size() > kHistorySteps || history_bytes_ > kHistoryBytes) {
      history_bytes_ -= history_.front().size();
      history_.pop_front();
    }
  }

  void drop_gone(LLM& llm) {
    if (std::erase_if(viewers_, [](const auto& viewer) { return viewer->gone(); }) == 0) return;
    if (!viewers_.empty()) return;
    observe(llm);
    if (engine_.paused()) engine_.set_paused(false);  // or the others would wait for ever
  }

  const Options options_;
  EngineThread& engine_;
  bool closed_ = false;
  std::vector<http::ResponderPtr> viewers_;
  std::deque<std::string> history_;  // events, oldest first
  size_t history_bytes_ = 0;
};

EngineView::EngineView(ApiServer& server, EngineThread& engine, Options options)
    : state_(std::make_shared<State>(engine, std::move(options))), engine_(engine) {
  const auto state = state_;
  // Does it on the engine's thread; if there is none any more, the request is refused.
  EngineThread* const thread = &engine;
  const auto on_engine = [thread](const http::ResponderPtr& responder, EngineThread::Task task) {
    if (!thread->post(std::move(task))) send_error(*responder, 503, "the engine has stopped");
  };
  const auto steps = [=](const RequestPtr& request, const http::ResponderPtr& responder) {
    if (request->method == "HEAD")
      return responder->send(200, {{"Content-Type", "text/event-stream"}}, "");
    on_engine(responder, [=](LLM& llm) { state->add_viewer(llm, responder); });
  };
  server.route("GET", "/engine/steps", steps, Access::kAdmin);
  const auto now = [=](const RequestPtr&, const http::ResponderPtr& responder) {
    on_engine(responder, [=](LLM& llm) {
      std::string body = state->facts(llm).dump();
      body.back() = ',';
      body += "\"frame\":" + state->frame(llm.snapshot()) + "}";
      responder->send(200, {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}},
                      body);
    });
  };
  server.route("GET", "/engine/state", now, Access::kAdmin);
  using Command = void (*)(State&, LLM&);
  // The body is {}: a JSON route is what pages of other sites cannot reach.
  const auto command = [&](const char* path, Command run) {
    const auto handler = [=](const RequestPtr&, const Json&, const http::ResponderPtr& responder) {
      on_engine(responder, [=](LLM& llm) {
        run(*state, llm);
        send_json(*responder, 200, {{"paused", thread->paused()}});
      });
    };
    server.json_route(path, handler, Access::kAdmin);
  };
  command("/engine/pause", [](State& s, LLM& llm) { s.set_paused(llm, true); });
  command("/engine/resume", [](State& s, LLM& llm) { s.set_paused(llm, false); });
  command("/engine/step", [](State& s, LLM& llm) { s.step(llm); });
  engine.post([state](LLM& llm) { state->observe(llm); });
}

void EngineView::close() {
  engine_.post([state = state_](LLM&) { state->close(); });
}

}  // namespace nanovllm
