// ApiServer: OpenAI's API, with vLLM's extensions, over one LLM: which path does what, and what is
// refused before anything is done.
//
// handle() runs on the I/O thread and only looks at the header; bodies are parsed, rendered and
// tokenized by a small pool of workers (the tokenizer may be used by any thread), so that neither
// the network nor the engine waits for a long prompt; LLM's other functions are called by the
// engine's thread. Routes are added before the first request.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/admission.h"
#include "server/api_call.h"
#include "server/engine_thread.h"
#include "server/http_server.h"
#include "server/worker_pool.h"

namespace nanovllm {

struct ApiOptions {
  std::vector<std::string> model_names;      // the first is what responses say
  std::string model_root;                    // what was loaded
  std::string version;                       // of the program
  std::vector<std::string> allowed_origins;  // of pages on other hosts, "*" is any; CORS
  // Names a client may call this server by (the Host header); empty: any. What keeps a page that a
  // browser was led to from reaching a server on the loopback by a name of its own.
  std::vector<std::string> allowed_hosts;
};

struct ApiHttpRequest : http::Request {
  Visitor visitor;
};
using RequestPtr = std::shared_ptr<ApiHttpRequest>;

class ApiServer {
 public:
  using Handler = std::function<void(const RequestPtr&, const http::ResponderPtr&)>;
  using JsonHandler =
      std::function<void(const RequestPtr&, const openai::Json& body, const http::ResponderPtr&)>;

  // engine and admission outlive this; llm is the engine's, used here for what any thread may call.
  ApiServer(const LLM& llm, EngineThread& engine, Admission& admission, ApiOptions options);

  // path: exact, or a beginning if it ends in '*'. The handler runs on the I/O thread and does not
  // block. "GET" serves HEAD too.
  void route(std::string method, std::string path, Handler handler, Access access = Access::kKey);
  // POST with a JSON body, which is parsed on a worker, where the handler runs too; what it throws
  // is answered with an error.
  void json_route(std::string path, JsonHandler handler, Access access = Access::kKey);

  void handle(http::Request request, http::ResponderPtr responder);

 private:
  void dispatch(const RequestPtr& request, const http::ResponderPtr& responder);
  bool refuse_host(const http::Request& request, http::Responder& responder) const;
  void add_cors(const http::Request& request, http::Responder& responder) const;
  void preflight(const http::Request& request, http::Responder& responder) const;
  std::vector<const char*> methods_of(const std::string& path) const;

  void check_model(const std::string& name) const;  // throws NotFound
  void complete(openai::Endpoint endpoint, const ApiHttpRequest& request, const openai::Json& body,
                const http::ResponderPtr& responder);
  // What is left to be done off the engine's thread; throws what is to be answered.
  void start(openai::ApiRequest request, const std::string& digits, const Visitor& visitor,
             const http::ResponderPtr& responder);
  openai::Json model_card(const std::string& name) const;
  openai::Json tokenize(const openai::Json& body) const;
  openai::Json detokenize(const openai::Json& body) const;

  struct Route {
    std::string method, path;
    Handler handler;
    Access access;
    bool matches(const std::string& path) const;
  };

  const LLM& llm_;
  EngineThread& engine_;
  Admission& admission_;
  const ApiOptions options_;
  const int64_t started_;  // Unix seconds
  std::vector<Route> routes_;
  std::atomic<size_t> waiting_bytes_{0};  // of bodies in the workers' queue
  WorkerPool workers_{2};
  WorkerPool compilers_{2};  // of schemas and grammars, where a hostile one may take seconds
};

}  // namespace nanovllm
