#include "server/tool_calls.h"

#include <gtest/gtest.h>

#include <random>

namespace nanovllm::openai {
namespace {

Json tool(const std::string& name, const Json& parameters = {{"type", "object"}}) {
  return {{"type", "function"}, {"function", {{"name", name}, {"parameters", parameters}}}};
}

ToolRequest request_of(const Json& body) { return parse_tool_request(Fields(body, "body")); }

const ToolRequest& two_tools() {
  static const ToolRequest request = request_of({{"tools", {tool("f"), tool("get weather")}}});
  return request;
}

// Content, then the calls, as one text to compare.
std::string read(ToolFormat format, const std::vector<std::string>& pieces,
                 const ToolRequest& request = two_tools()) {
  ToolCallParser parser(format, request);
  std::string content;
  std::vector<std::pair<std::string, std::string>> calls;
  auto take = [&](const ToolDelta& delta) {
    content += delta.content;
    for (const ToolDelta::Call& call : delta.calls) {
      if (!call.name.empty()) {
        EXPECT_EQ(call.index, static_cast<int>(calls.size()));
        calls.emplace_back(call.name, "");
      }
      EXPECT_EQ(call.index + 1, static_cast<int>(calls.size()));
      calls.back().second += call.arguments;
    }
  };
  for (const std::string& piece : pieces) take(parser.add(piece));
  take(parser.finish());
  EXPECT_EQ(parser.num_calls(), static_cast<int>(calls.size()));
  for (const auto& [name, arguments] : calls) content += "|" + name + "(" + arguments + ")";
  return content;
}

// However the text is cut, the same comes out.
std::string read_all_ways(ToolFormat format, const std::string& text,
                          const ToolRequest& request = two_tools()) {
  const std::string whole = read(format, {text}, request);
  std::vector<std::string> bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  EXPECT_EQ(read(format, bytes, request), whole);
  std::mt19937 random(1);
  for (int i = 0; i < 30; ++i) {
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = random() % 8;
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    EXPECT_EQ(read(format, pieces, request), whole);
  }
  return whole;
}

std::string hermes(const std::string& text) { return read_all_ways(ToolFormat::kHermes, text); }
std::string llama(const std::string& text) { return read_all_ways(ToolFormat::kLlama, text); }

TEST(ToolCalls, Hermes) {
  EXPECT_EQ(hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>"),
            "|f({\"a\": 1})");
  EXPECT_EQ(hermes("I will look.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>"),
            "I will look.|f({})");
  EXPECT_EQ(
      hermes("<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"}</tool_call>\\\"{\"}}"
             "</tool_call>\n<tool_call>\n{\"arguments\": [[1], {}], \"name\": \"get weather\"}"
             "\n</tool_call>\n"),
      "|f({\"s\":\"}</tool_call>\\\"{\"})|get weather([[1], {}])");
  EXPECT_EQ(hermes("<tool_call>{\"name\": \"f\"}</tool_call>"), "|f({})");
  // Arguments as text.
  EXPECT_EQ(hermes("<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>"),
            "|f({\"a\": 1})");
  // Cut in the middle.
  EXPECT_EQ(hermes("<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2"),
            "|f({\"a\": [1, 2)");
  EXPECT_EQ(hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call> and so on"),
            " and so on|f({})");
}

TEST(ToolCalls, HermesTextThatOnlyLooksLikeIt) {
  for (const char* text :
       {"", "hello", " \n", "a < b, a <tool b, <tool_cal", "<tool_call", "<<<tool_call", "\n\n<",
        "<tool_call> is how one begins", "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}",
        "<tool_call>{\"name\": 3}", "<tool_call>{\"a\": 1}</tool_call>", "<tool_call>{\"nam",
        "<tool_call>{,}", "</tool_call>", "<tool_call>{\"name\" \"f\"}", "text  \n "})
    EXPECT_EQ(hermes(text), text);
  EXPECT_EQ(hermes("<tool_call><tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>"),
            "<tool_call>|f({})");
}

TEST(ToolCalls, Llama) {
  EXPECT_EQ(llama("{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}"), "|f({\"a\": \"b\"})");
  EXPECT_EQ(llama("\n <|python_tag|>{\"name\": \"f\", \"parameters\": {}}"), "|f({})");
  EXPECT_EQ(llama("{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"get weather\", "
                  "\"parameters\": {\"city\": \"Bern\"}}\n"),
            "|f({})|get weather({\"city\": \"Bern\"})");
  EXPECT_EQ(llama("{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}}"), "|f({})");
  EXPECT_EQ(llama("{\"name\": \"f\", \"parameters\": {}} is what I call"), " is what I call|f({})");
}

TEST(ToolCalls, LlamaTextThatOnlyLooksLikeIt) {
  for (const char* text : {"", " ", "hello {\"name\": \"f\", \"parameters\": {}}",
                           "{\"name\": \"Ada\", \"age\": 3}", "{\"answer\": 42}", "{ not JSON",
                           "<|python_tag|>print(1)", "<|python", "{\"name\": \"f\"", "[1, 2]"})
    EXPECT_EQ(llama(text), text);
}

TEST(ToolCalls, OneAtMost) {
  const ToolRequest request = request_of({{"tools", {tool("f")}}, {"parallel_tool_calls", false}});
  const std::string call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  EXPECT_EQ(read_all_ways(ToolFormat::kHermes, call + "\n" + call, request), "|f({})");
}

TEST(ToolCalls, WithoutAFormatAllIsText) {
  const std::string call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
  EXPECT_EQ(read_all_ways(ToolFormat::kNone, call), call);
}

// Random texts of the parser's own words: nothing is lost, and no cut changes a thing.
TEST(ToolCalls, RandomTexts) {
  const char* const words[] = {"<tool_call>",
                               "</tool_call>",
                               "{",
                               "}",
                               "\"name\"",
                               "\"f\"",
                               ":",
                               ",",
                               " ",
                               "\n",
                               "\"arguments\"",
                               "\"parameters\"",
                               ";",
                               "[",
                               "]",
                               "\"",
                               "\\",
                               "<",
                               "x",
                               "<|python_tag|>",
                               "{\"name\": \"f\", \"arguments\": {"};
  std::mt19937 random(5);
  for (int i = 0; i < 3000; ++i) {
    std::string text;
    for (size_t n = random() % 20; n > 0; --n) text += words[random() % std::size(words)];
    for (const ToolFormat format : {ToolFormat::kHermes, ToolFormat::kLlama}) {
      std::vector<std::string> bytes;
      for (const char c : text) bytes.emplace_back(1, c);
      const std::string whole = read(format, {text});
      ASSERT_EQ(read(format, bytes), whole) << text;
      if (whole.find("|f(") == std::string::npos) {
        ASSERT_EQ(whole, text);
      }
    }
  }
}

TEST(ToolCalls, FormatByTemplate) {
  EXPECT_EQ(detect_tool_format(""), ToolFormat::kNone);
  EXPECT_EQ(detect_tool_format("{{ messages }}"), ToolFormat::kNone);
  EXPECT_EQ(detect_tool_format("{% if tools %}<tool_call>\\n{\"name\": .., \"arguments\": ..}"),
            ToolFormat::kHermes);
  EXPECT_EQ(detect_tool_format("{% if tools %}<tool_call><function=name> arguments"),
            ToolFormat::kNone);
}

std::string refused(const Json& body) {
  try {
    request_of(body);
    return "";
  } catch (const InvalidArgument& e) {
    return e.where();
  }
}

TEST(ToolCalls, Fields) {
  const Json tools = {tool("f"), tool("g")};
  EXPECT_EQ(request_of({{"tools", tools}}).choice, ToolRequest::Choice::kAuto);
  EXPECT_EQ(request_of({{"tools", tools}, {"tool_choice", "none"}}).choice,
            ToolRequest::Choice::kNone);
  EXPECT_EQ(request_of({{"tools", tools}, {"tool_choice", "required"}}).choice,
            ToolRequest::Choice::kRequired);
  const ToolRequest named = request_of(
      {{"tools", tools}, {"tool_choice", {{"type", "function"}, {"function", {{"name", "g"}}}}}});
  EXPECT_EQ(named.choice, ToolRequest::Choice::kRequired);
  EXPECT_TRUE(named.has("g"));
  EXPECT_FALSE(named.has("f"));
  EXPECT_EQ(request_of({{"messages", 1}}).choice, ToolRequest::Choice::kNone);
  EXPECT_EQ(refused({{"tool_choice", "required"}}), "tool_choice");
  EXPECT_EQ(refused({{"tool_choice", "any"}, {"tools", tools}}), "tool_choice");
  EXPECT_EQ(refused({{"tools", tools},
                     {"tool_choice", {{"type", "function"}, {"function", {{"name", "h"}}}}}}),
            "tool_choice");
  EXPECT_EQ(refused({{"tools", {tool("f"), tool("f")}}}), "tools");
  EXPECT_EQ(refused({{"tools", {{{"type", "retrieval"}}}}}), "tools");
  EXPECT_EQ(refused({{"tools", {{{"type", "function"}}}}}), "tools");
  EXPECT_EQ(refused({{"tools", {{{"type", "function"}, {"function", {{"name", ""}}}}}}}), "tools");
  EXPECT_EQ(refused({{"tools", {tool("f", "text")}}}), "parameters");
  EXPECT_EQ(refused({{"parallel_tool_calls", "yes"}}), "parallel_tool_calls");
}

}  // namespace
}  // namespace nanovllm::openai
