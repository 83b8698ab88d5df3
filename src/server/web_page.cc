#include "server/web_page.h"

#include <fmt/format.h>
#include <xxhash.h>

#include "server/api_reply.h"
#include "server/embedded_files.h"

namespace nanovllm {
namespace {

using openai::Json;

std::string content_type(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return "text/javascript; charset=utf-8";
}

// Nothing from elsewhere is loaded, no text of the page can become a script, and no other page can
// put this one into a frame.
constexpr const char* kPolicy =
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'";

// The browser asks every time and is told that nothing has changed: a new build shows at once.
void send_file(const EmbeddedFile& file, const std::string& etag, const http::Request& request,
               http::Responder& responder) {
  http::Headers headers = {{"ETag", etag},
                           {"Cache-Control", "no-cache"},
                           {"Content-Security-Policy", kPolicy},
                           {"X-Content-Type-Options", "nosniff"},
                           {"Referrer-Policy", "no-referrer"}};
  const std::string* known = request.header("If-None-Match");
  if (known && known->find(etag) != std::string::npos) return responder.send(304, headers, "");
  headers.emplace_back("Content-Type", content_type(file.name));
  responder.send(200, headers, std::string(file.bytes));
}

// What the page wants to know of the model.
Json model_facts(const LLM& llm, const GenerationDefaults& d, const std::string& name,
                 const std::string& version) {
  Json defaults = Json::object();
  if (d.temperature) defaults["temperature"] = *d.temperature;
  if (d.top_p) defaults["top_p"] = *d.top_p;
  if (d.top_k) defaults["top_k"] = *d.top_k;
  if (d.min_p) defaults["min_p"] = *d.min_p;
  if (d.repetition_penalty) defaults["repetition_penalty"] = *d.repetition_penalty;
  return {{"name", name},
          {"version", version},
          {"has_chat_template", llm.info().has_chat_template},
          {"has_tokenizer", llm.info().has_tokenizer},
          {"max_model_len", llm.memory_plan().max_model_len},
          {"defaults", std::move(defaults)}};
}

}  // namespace

void add_web_page(ApiServer& server, const LLM& llm, const GenerationDefaults& defaults,
                  const std::string& model_name, const std::string& version) {
  for (const EmbeddedFile& file : embedded_files()) {
    if (!file.name.starts_with("web/")) continue;
    const std::string path = file.name == "web/index.html" ? "/" : "/" + std::string(file.name);
    const std::string etag =
        fmt::format("\"{:016x}\"", XXH3_64bits(file.bytes.data(), file.bytes.size()));
    const auto handler = [file, etag](const RequestPtr& request, const auto& responder) {
      send_file(file, etag, *request, *responder);
    };
    server.route("GET", path, handler, Access::kAnybody);
  }
  const std::string facts = openai::dump(model_facts(llm, defaults, model_name, version));
  const auto handler = [facts](const RequestPtr&, const auto& responder) {
    responder->send(200, {{"Content-Type", "application/json"}, {"Cache-Control", "no-cache"}},
                    facts);
  };
  server.route("GET", "/web/model.json", handler, Access::kAnybody);
}

}  // namespace nanovllm
