// openapi.json and the parser agree: what one names the other takes, in its type and range.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/embedded_files.h"
#include "server/openai_request.h"

namespace nanovllm {
namespace {

using openai::Endpoint;
using openai::Json;

struct Room {
  Endpoint endpoint;
  const char* schema;
  Json body;  // the least a request holds
};

std::vector<Room> rooms() {
  return {{Endpoint::kCompletions, "CompletionRequest", Json::parse(R"({"prompt": "x"})")},
          {Endpoint::kChatCompletions, "ChatCompletionRequest",
           Json::parse(R"({"messages": [{"role": "user", "content": "x"}]})")}};
}

const Json& document() {
  static const Json parsed = Json::parse(find_embedded_file("openapi.json")->bytes);
  return parsed;
}

Json properties_of(const char* schema) {
  return document()["components"]["schemas"][schema]["properties"];
}

// The field that is refused, or "".
std::string refused(const Room& room, const Json& body) {
  try {
    openai::parse_request(room.endpoint, body, {}, 1000);
  } catch (const InvalidArgument& e) {
    return e.where();
  }
  return "";
}

// Values of the schema, its limits among them. Members that need others come with them.
std::vector<Json> values(const std::string& name, const Json& schema) {
  if (schema.contains("enum")) return schema["enum"];
  if (schema.contains("const")) return {schema["const"]};
  if (schema.contains("anyOf")) {
    std::vector<Json> all;
    for (const Json& choice : schema["anyOf"])
      for (const Json& value : values(name, choice)) all.push_back(value);
    return all;
  }
  if (!schema.contains("type")) return {nullptr};  // a reference: tested by name
  const Json type = schema["type"].is_array() ? schema["type"][0] : schema["type"];
  if (type == "null") return {nullptr};
  if (type == "boolean") return {true, false, nullptr};
  if (type == "integer" || type == "number") {
    std::vector<Json> all = {nullptr};
    for (const char* limit : {"minimum", "maximum"})
      if (schema.contains(limit)) all.push_back(schema[limit]);
    if (type == "number") all.push_back(0.5);
    return all;
  }
  if (type == "string") return {"text", nullptr};
  if (type == "array") return {Json::array(), nullptr};
  return {Json::object(), nullptr};
}

// What else a member asks for.
Json with(Json body, const std::string& name, const Json& value) {
  body[name] = value;
  if (name == "top_logprobs") body["logprobs"] = true;
  if (name == "best_of") body["n"] = value;
  if (name == "continue_final_message" && value == true) body["add_generation_prompt"] = false;
  if (name == "min_tokens") body["max_tokens"] = 1 << 28;
  return body;
}

TEST(OpenApi, WhatIsDescribedIsAccepted) {
  for (const Room& room : rooms()) {
    const Json properties = properties_of(room.schema);
    for (const auto& [name, schema] : properties.items()) {
      if (room.body.contains(name)) continue;
      // What asks for more than a value of the right type; tested where it belongs.
      if (name == "stream_options" || name == "guided_choice" || name == "tool_choice") continue;
      for (const Json& value : values(name, schema)) {
        if (schema.contains("anyOf") && value.is_object()) continue;  // tested by name
        EXPECT_EQ(refused(room, with(room.body, name, value)), "")
            << room.schema << " " << name << " " << value;
      }
    }
  }
}

TEST(OpenApi, WhatIsOutOfTheDescribedRangeIsRefused) {
  for (const Room& room : rooms()) {
    const Json properties = properties_of(room.schema);
    for (const auto& [name, schema] : properties.items()) {
      if (name == "best_of" || name == "top_logprobs") continue;  // the field they go with is named
      Json wrong = Json::array({Json::array({1.5})});             // of no field's type
      if (schema.contains("minimum")) wrong.push_back(schema["minimum"].get<double>() * 1.01 - 1);
      if (schema.contains("exclusiveMinimum")) wrong.push_back(schema["exclusiveMinimum"]);
      if (schema.contains("maximum")) wrong.push_back(schema["maximum"].get<double>() * 1.01 + 1);
      if (name == "documents" || name == "tools" || name == "modalities") wrong.erase(0);
      for (const Json& value : wrong)
        EXPECT_EQ(refused(room, with(room.body, name, value)), name) << room.schema << " " << value;
    }
  }
}

TEST(OpenApi, WhatIsNotDescribedIsRefusedByName) {
  for (const Room& room : rooms()) {
    Json body = room.body;
    body["temprature"] = 1;
    EXPECT_EQ(refused(room, body), "temprature");
    body = room.body;
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}, {"includes", nullptr}};
    EXPECT_EQ(refused(room, body), "stream_options.includes");
    body = room.body;
    body["response_format"] = {{"type", "text"}};
    EXPECT_EQ(refused(room, body), "");
    body["response_format"]["x"] = 1;
    EXPECT_EQ(refused(room, body), "response_format.x");
    body["response_format"] = {{"type", "json_schema"},
                               {"json_schema", {{"name", "x"}, {"schema", true}, {"stric", true}}}};
    EXPECT_EQ(refused(room, body), "response_format.json_schema.stric");
    body["response_format"] = nullptr;
    EXPECT_EQ(refused(room, body), "");
  }
}

TEST(OpenApi, MessagesMayHoldMore) {
  EXPECT_EQ(refused(rooms()[1], Json::parse(R"({"messages":
      [{"role": "user", "content": [{"type": "text", "text": "x", "more": 1}], "more": 1}]})")),
            "");
}

TEST(OpenApi, ItsReferencesLeadSomewhere) {
  const std::string text(find_embedded_file("openapi.json")->bytes);
  for (size_t at = 0; (at = text.find("\"$ref\": \"#", at)) != std::string::npos;) {
    at += 10;
    const Json::json_pointer target(text.substr(at, text.find('"', at) - at));
    EXPECT_TRUE(document().contains(target)) << target;
  }
}

}  // namespace
}  // namespace nanovllm
