#include "client/openai_stream.h"

#include <nlohmann/json.hpp>

#include "nanovllm/error.h"

namespace nanovllm::client {
namespace {

using Json = nlohmann::json;

// A member of whatever `value` is; null if there is none.
const Json& member(const Json& value, const char* name) {
  static const Json kNull;
  if (!value.is_object()) return kNull;
  const auto found = value.find(name);
  return found == value.end() ? kNull : *found;
}

bool has_text(const Json& value) {
  return value.is_string() && !value.get_ref<const std::string&>().empty();
}

int64_t count(const Json& value) { return value.is_number_integer() ? value.get<int64_t>() : 0; }

std::optional<Usage> usage_of(const Json& body) {
  const Json& usage = member(body, "usage");
  if (!usage.is_object()) return std::nullopt;
  return Usage{count(member(usage, "prompt_tokens")), count(member(usage, "completion_tokens")),
               count(member(member(usage, "prompt_tokens_details"), "cached_tokens"))};
}

std::string error_of(const Json& body) {
  const Json& error = member(body, "error");
  if (error.is_null()) return "";
  if (has_text(member(error, "message"))) return member(error, "message").get<std::string>();
  return error.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// A chunk of a completion is a token even if its text is empty (a character is incomplete), unless
// all it says is that the answer ended. A chat's first chunk may hold the role alone.
bool is_token(const Json& choice) {
  const Json& ids = member(choice, "token_ids");
  if (ids.is_array() && !ids.empty()) return true;
  const Json& delta = member(choice, "delta");
  if (delta.is_object()) {
    for (const char* name : {"content", "reasoning", "reasoning_content"})
      if (has_text(member(delta, name))) return true;
    if (!member(delta, "tool_calls").is_null()) return true;
    return !delta.contains("role") && member(choice, "finish_reason").is_null();
  }
  return has_text(member(choice, "text")) || member(choice, "finish_reason").is_null();
}

}  // namespace

StreamChunk read_stream_chunk(std::string_view data) {
  StreamChunk chunk;
  if (data == "[DONE]") {
    chunk.done = true;
    return chunk;
  }
  const Json body = Json::parse(data, nullptr, false);
  if (!body.is_object()) throw Error("event", "is no JSON object");
  chunk.error = error_of(body);
  chunk.usage = usage_of(body);
  const Json& choices = member(body, "choices");
  if (choices.is_array())
    for (const Json& choice : choices) chunk.token |= is_token(choice);
  return chunk;
}

std::optional<Usage> read_usage(std::string_view body) {
  return usage_of(Json::parse(body, nullptr, false));
}

std::string read_error(std::string_view body) {
  return error_of(Json::parse(body, nullptr, false));
}

}  // namespace nanovllm::client
