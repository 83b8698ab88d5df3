// EngineView: the engine's steps for the web page. GET /engine/steps is a stream of events,
// "hello", then "step" for the last steps and for each further one, and "paused" when that changes;
// GET /engine/state tells what is between two steps; POST /engine/pause, /engine/resume and
// /engine/step (one step, then wait) do what they say. Ids and counts, nothing of what users wrote;
// where there are API keys, an admin's is needed.
//
// The engine is only observed while somebody watches. A viewer who reads too slowly misses steps,
// and costs the engine nothing; when the last one leaves, a paused engine goes on.
//
// Made before the first request. Everything is kept on the engine's thread; routes run on the I/O
// thread and post tasks.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "nanovllm/step_trace.h"
#include "server/api_server.h"
#include "server/step_json.h"

namespace nanovllm {

class EngineView {
 public:
  struct Options {
    std::string model;  // its name
    EngineConfig config;
    StepObserver observer;                 // told of every step too, watched or not; may be null
    std::function<QueueSnapshot()> queue;  // what waits outside the engine; may be null
  };
  // Adds the routes to the server. The engine may be stopped before this goes; both outlive the
  // server's last request.
  EngineView(ApiServer& server, EngineThread& engine, Options options);

  void close();  // any thread: ends the viewers' streams, for the server wants to go

  static constexpr size_t kHistorySteps = 200, kHistoryBytes = 512 << 10;
  static constexpr size_t kMaxUnsentBytes = 256 << 10;  // a viewer further behind misses steps
  static constexpr size_t kMaxViewers = 64;

 private:
  class State;
  std::shared_ptr<State> state_;
  EngineThread& engine_;
};

}  // namespace nanovllm
