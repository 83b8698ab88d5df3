#include "server/api_server.h"

#include <algorithm>
#include <chrono>

#include "server/api_reply.h"
#include "server/embedded_files.h"

namespace nanovllm {
namespace {

using openai::Json;

constexpr size_t kMaxChoices = 1024;            // completions one request may ask for
constexpr size_t kMaxIdBytes = 128;             // of a client's name for its request
constexpr size_t kMaxWaitingBytes = 256 << 20;  // of bodies that no worker has taken yet

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::ranges::find(list, item) != list.end();
}

// A browser sends other types of body to any server without asking, so only this one is taken.
bool is_json(const http::Request& request) {
  const std::string* type = request.header("Content-Type");
  if (!type) return false;
  std::string media = type->substr(0, type->find(';'));
  while (!media.empty() && media.back() == ' ') media.pop_back();
  return http::equal_ignoring_case(media, "application/json");
}

}  // namespace

ApiServer::ApiServer(const LLM& llm, EngineThread& engine, Admission& admission, ApiOptions options)
    : llm_(llm),
      engine_(engine),
      admission_(admission),
      options_(std::move(options)),
      started_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()) {
  const auto completions = [this](openai::Endpoint endpoint) {
    return [this, endpoint](const RequestPtr& request, const Json& body,
                            const http::ResponderPtr& responder) {
      complete(endpoint, *request, body, responder);
    };
  };
  json_route("/v1/completions", completions(openai::Endpoint::kCompletions), Access::kCompute);
  json_route("/v1/chat/completions", completions(openai::Endpoint::kChatCompletions),
             Access::kCompute);
  json_route("/tokenize", [this](const RequestPtr&, const Json& body, const auto& responder) {
    send_json(*responder, 200, tokenize(body));
  });
  json_route("/detokenize", [this](const RequestPtr&, const Json& body, const auto& responder) {
    send_json(*responder, 200, detokenize(body));
  });
  route("GET", "/v1/models", [this](const RequestPtr&, const auto& responder) {
    Json data = Json::array();
    for (const std::string& name : options_.model_names) data.push_back(model_card(name));
    send_json(*responder, 200, {{"object", "list"}, {"data", std::move(data)}});
  });
  route("GET", "/v1/models/*", [this](const RequestPtr& request, const auto& responder) {
    const std::string name = request->path.substr(sizeof("/v1/models/") - 1);
    check_model(name);
    send_json(*responder, 200, model_card(name));
  });
  const auto health = [this](const RequestPtr&, const auto& responder) {
    if (engine_.failed()) return send_error(*responder, 503, "the engine has failed");
    responder->send(200, {}, "");
  };
  route("GET", "/health", health, Access::kAnybody);
  const auto metrics = [this](const RequestPtr&, const auto& responder) {
    admission_.send_metrics(responder);
  };
  route("GET", "/metrics", metrics, Access::kAdmin);
  route("GET", "/version", [this](const RequestPtr&, const auto& responder) {
    send_json(*responder, 200, {{"version", options_.version}});
  });
  const auto description = [this](const RequestPtr&, const auto& responder) {
    responder->send(200, {{"Content-Type", "application/json"}},
                    std::string(find_embedded_file("openapi.json")->bytes));
  };
  route("GET", "/openapi.json", description, Access::kAnybody);
}

bool ApiServer::Route::matches(const std::string& wanted) const {
  if (path.back() != '*') return wanted == path;
  return wanted.size() >= path.size() &&
         wanted.compare(0, path.size() - 1, path, 0, path.size() - 1) == 0;
}

void ApiServer::route(std::string method, std::string path, Handler handler, Access access) {
  routes_.push_back({std::move(method), std::move(path), std::move(handler), access});
}

void ApiServer::json_route(std::string path, JsonHandler handler, Access access) {
  route(
      "POST", std::move(path),
      [this, handler = std::move(handler)](const RequestPtr& request,
                                           const http::ResponderPtr& responder) {
        if (!is_json(*request))
          return send_error(*responder, 415, "the Content-Type must be application/json");
        const size_t size = request->body.size();
        if (waiting_bytes_.fetch_add(size) + size > kMaxWaitingBytes) {
          waiting_bytes_ -= size;
          responder->add_header("Retry-After", "1");
          return send_error(*responder, 503, "too many large requests at once");
        }
        workers_.post(request->visitor.key, [this, handler, request, responder, size] {
          waiting_bytes_ -= size;
          try {
            if (responder->gone()) return;
            const Json body = openai::parse_body(request->body);
            std::string().swap(request->body);
            handler(request, body, responder);
          } catch (const std::exception& e) {
            send_error(*responder, e);
          }
        });
      },
      access);
}

void ApiServer::handle(http::Request request, http::ResponderPtr responder) {
  try {
    const Visitor visitor = admission_.identify(request, responder);
    dispatch(std::make_shared<ApiHttpRequest>(ApiHttpRequest{std::move(request), visitor}),
             responder);
  } catch (const std::exception& e) {
    send_error(*responder, e);
  }
}

void ApiServer::dispatch(const RequestPtr& request, const http::ResponderPtr& responder) {
  if (refuse_host(*request, *responder)) return;
  add_cors(*request, *responder);
  if (request->method == "OPTIONS") return preflight(*request, *responder);
  const std::string& method = request->method == "HEAD" ? "GET" : request->method;
  for (const Route& route : routes_)
    if (route.method == method && route.matches(request->path)) {
      if (admission_.admits(request->visitor, route.access, *responder))
        route.handler(request, responder);
      return;
    }
  const std::vector<const char*> methods = methods_of(request->path);
  if (methods.empty()) return send_error(*responder, 404, "there is no " + request->path);
  std::string allow;
  for (const char* name : methods) allow += std::string(allow.empty() ? "" : ", ") + name;
  responder->add_header("Allow", allow);
  send_error(*responder, 405, request->path + " takes " + allow);
}

bool ApiServer::refuse_host(const http::Request& request, http::Responder& responder) const {
  if (options_.allowed_hosts.empty()) return false;
  const std::string* host = request.header("Host");
  if (!host) return false;  // HTTP/1.0, which no browser speaks
  const auto name = http::host_name(*host);
  if (name && contains(options_.allowed_hosts, *name)) return false;
  send_error(responder, 403,
             "this server is not called " + *host + "; --allowed-hosts lists its names");
  return true;
}

void ApiServer::add_cors(const http::Request& request, http::Responder& responder) const {
  const std::string* origin = request.header("Origin");
  if (!origin || options_.allowed_origins.empty()) return;
  responder.add_header("Vary", "Origin");
  if (!contains(options_.allowed_origins, *origin) && !contains(options_.allowed_origins, "*"))
    return;
  responder.add_header("Access-Control-Allow-Origin", *origin);
}

void ApiServer::preflight(const http::Request& request, http::Responder& responder) const {
  std::string allow = "OPTIONS";
  for (const char* name : methods_of(request.path)) allow += std::string(", ") + name;
  responder.add_header("Allow", allow);
  if (request.header("Access-Control-Request-Method")) {
    responder.add_header("Access-Control-Allow-Methods", allow);
    if (const std::string* headers = request.header("Access-Control-Request-Headers"))
      responder.add_header("Access-Control-Allow-Headers", *headers);
    responder.add_header("Access-Control-Max-Age", "600");
  }
  responder.send(204, {}, "");
}

std::vector<const char*> ApiServer::methods_of(const std::string& path) const {
  std::vector<const char*> methods;
  for (const Route& route : routes_) {
    if (!route.matches(path)) continue;
    methods.push_back(route.method.c_str());
    if (route.method == "GET") methods.push_back("HEAD");
  }
  return methods;
}

void ApiServer::check_model(const std::string& name) const {
  if (!contains(options_.model_names, name))
    throw NotFound("model", "the model `" + name + "` does not exist");
}

void ApiServer::complete(openai::Endpoint endpoint, const ApiHttpRequest& http_request,
                         const Json& body, const http::ResponderPtr& responder) {
  openai::ApiRequest request =
      openai::parse_request(endpoint, body, llm_.generation_defaults(), llm_.info().vocab_size);
  if (!request.model.empty()) check_model(request.model);
  const size_t choices =
      std::max<size_t>(1, request.prompts.size()) * static_cast<size_t>(request.params.n);
  if (choices > kMaxChoices)
    throw InvalidArgument(request.params.n > 1 ? "n" : "prompt",
                          "asks for " + std::to_string(choices) + " completions; one request may " +
                              "ask for " + std::to_string(kMaxChoices));
  const std::string* header = http_request.header("X-Request-Id");
  std::string digits = !request.request_id.empty()               ? request.request_id
                       : header && header->size() <= kMaxIdBytes ? *header
                                                                 : openai::random_digits();
  if (!openai::needs_compiling(request))
    return start(std::move(request), digits, http_request.visitor, responder);
  compilers_.post(http_request.visitor.key,
                  [this, request = std::move(request), digits = std::move(digits),
                   visitor = http_request.visitor, responder] {
                    try {
                      if (!responder->gone()) start(request, digits, visitor, responder);
                    } catch (const std::exception& e) {
                      send_error(*responder, e);
                    }
                  });
}

void ApiServer::start(openai::ApiRequest request, const std::string& digits, const Visitor& visitor,
                      const http::ResponderPtr& responder) {
  openai::prepare(llm_, request);
  std::vector<Prompt> prompts = openai::request_prompts(llm_, request);
  openai::check_prompts(llm_, request, prompts);
  openai::ResponseContext context =
      openai::make_context(llm_, request, options_.model_names[0], digits);
  admission_.submit(std::make_shared<ApiCall>(std::move(request), std::move(prompts),
                                              std::move(context), responder),
                    visitor);
}

Json ApiServer::model_card(const std::string& name) const {
  return {{"id", name},
          {"object", "model"},
          {"created", started_},
          {"owned_by", "nano-vllm"},
          {"root", options_.model_root},
          {"parent", nullptr},
          {"max_model_len", llm_.memory_plan().max_model_len}};
}

}  // namespace nanovllm
