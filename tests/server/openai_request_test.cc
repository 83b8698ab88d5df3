// Bodies in, ApiRequests or complaints that name the field out.
#include "server/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nanovllm::openai {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ApiRequest completion(const std::string& body, const GenerationDefaults& defaults = {}) {
  return parse_request(Endpoint::kCompletions, parse_body(body), defaults);
}

ApiRequest chat(const std::string& body, const GenerationDefaults& defaults = {}) {
  return parse_request(Endpoint::kChatCompletions, parse_body(body), defaults);
}

// The field a body is refused for.
std::string refused_field(Endpoint endpoint, const std::string& body) {
  try {
    parse_request(endpoint, parse_body(body), {});
  } catch (const InvalidArgument& e) {
    return e.where();
  }
  return "(accepted)";
}

std::string refused(const std::string& member) {
  return refused_field(Endpoint::kCompletions, R"({"prompt": "x", )" + member + "}");
}

std::string refused_chat(const std::string& member) {
  return refused_field(Endpoint::kChatCompletions,
                       R"({"messages": [{"role": "user", "content": "x"}], )" + member + "}");
}

TEST(CompletionRequest, DefaultsAreVllms) {
  const ApiRequest r = completion(R"({"prompt": "Hello"})");
  ASSERT_EQ(r.prompts.size(), 1u);
  EXPECT_EQ(r.prompts[0].text, "Hello");
  EXPECT_TRUE(r.prompts[0].add_special_tokens);
  EXPECT_EQ(r.params.max_tokens, 16);
  EXPECT_EQ(r.params.temperature, 1.0);
  EXPECT_EQ(r.params.top_p, 1.0);
  EXPECT_EQ(r.params.top_k, 0);
  EXPECT_EQ(r.params.n, 1);
  EXPECT_FALSE(r.params.logprobs);
  EXPECT_FALSE(r.params.seed);
  EXPECT_FALSE(r.echo || r.stream || r.return_token_ids);
}

TEST(CompletionRequest, WhatIsNotKnownIsRefusedByName) {
  EXPECT_EQ(refused(R"("tempratur": 1)"), "tempratur");
  EXPECT_EQ(refused(R"("messages": [])"), "messages");
  EXPECT_EQ(refused(R"("tempratur": null)"), "tempratur");
  EXPECT_EQ(refused(R"("stream": true, "stream_options": {"usage": true})"),
            "stream_options.usage");
  EXPECT_EQ(refused(R"("stream_options": {"include_usage": true})"), "stream_options");
}

TEST(CompletionRequest, WhatAsksForNothingIsTaken) {
  const ApiRequest r = completion(R"({"prompt": "x", "user": "u", "request_id": "r", "store": false,
      "metadata": {"a": "b"}, "service_tier": "auto", "detokenize": true, "parallel_tool_calls": true})");
  EXPECT_EQ(r.user, "u");
  EXPECT_EQ(r.request_id, "r");
  EXPECT_EQ(refused(R"("store": true)"), "store");
  EXPECT_EQ(refused(R"("user": 5)"), "user");
  EXPECT_EQ(refused(R"("service_tier": "flex")"), "service_tier");
}

TEST(Body, HoldsNoMoreThanTwoMillionValues) {
  std::string list = "[1";
  for (int i = 0; i < 1'999'000; ++i) list += ",1";
  EXPECT_NO_THROW(parse_body(list + "]"));
  for (int i = 0; i < 2'000; ++i) list += ",1";
  EXPECT_THROW(parse_body(list + "]"), InvalidArgument);
}

TEST(CompletionRequest, TheFourShapesOfPrompt) {
  EXPECT_EQ(completion(R"({"prompt": ["a", "b"]})").prompts[1].text, "b");
  EXPECT_THAT(completion(R"({"prompt": [5, 6]})").prompts[0].token_ids, ElementsAre(5, 6));
  const ApiRequest lists = completion(R"({"prompt": [[1], [2, 3]]})");
  ASSERT_EQ(lists.prompts.size(), 2u);
  EXPECT_THAT(lists.prompts[1].token_ids, ElementsAre(2, 3));
}

TEST(CompletionRequest, RefusesOtherPrompts) {
  for (const char* prompt :
       {"5", "{}", "true", "[]", "[[]]", R"(["a", 5])", R"([5, "a"])", R"([["a"]])", "[-1]",
        "[1.5]", "[2147483648]", "[null]", "[[1], 2]", "null"})
    EXPECT_EQ(refused_field(Endpoint::kCompletions, std::string(R"({"prompt": )") + prompt + "}"),
              "prompt")
        << prompt;
  EXPECT_EQ(refused_field(Endpoint::kCompletions, "{}"), "prompt");
}

TEST(CompletionRequest, EverySamplingParameterArrives) {
  const ApiRequest r =
      completion(R"({"prompt": "x", "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1,
      "repetition_penalty": 1.1, "presence_penalty": -0.5, "frequency_penalty": 0.25, "logit_bias": {"3": -100, "4": 1.5},
      "seed": 42, "max_tokens": 9, "min_tokens": 2, "stop": ["a", "b"], "stop_token_ids": [1, 2], "ignore_eos": true,
      "n": 3, "logprobs": 4, "prompt_logprobs": 5, "skip_special_tokens": false, "include_stop_str_in_output": true,
      "priority": -2, "cache_salt": "s", "model": "m"})");
  const SamplingParams& p = r.params;
  EXPECT_EQ(p.temperature, 0.5);
  EXPECT_EQ(p.top_k, 7);
  EXPECT_EQ(p.top_p, 0.9);
  EXPECT_EQ(p.min_p, 0.1);
  EXPECT_EQ(p.repetition_penalty, 1.1);
  EXPECT_EQ(p.presence_penalty, -0.5);
  EXPECT_EQ(p.frequency_penalty, 0.25);
  EXPECT_EQ(p.logit_bias, (std::map<int32_t, double>{{3, -100.0}, {4, 1.5}}));
  EXPECT_EQ(p.seed, 42);
  EXPECT_EQ(p.max_tokens, 9);
  EXPECT_EQ(p.min_tokens, 2);
  EXPECT_THAT(p.stop, ElementsAre("a", "b"));
  EXPECT_THAT(p.stop_token_ids, ElementsAre(1, 2));
  EXPECT_TRUE(p.ignore_eos);
  EXPECT_EQ(p.n, 3);
  EXPECT_EQ(p.logprobs, 4);
  EXPECT_EQ(p.prompt_logprobs, 5);
  EXPECT_FALSE(p.skip_special_tokens);
  EXPECT_TRUE(p.include_stop_str_in_output);
  EXPECT_EQ(r.options.priority, -2);
  EXPECT_EQ(r.options.cache_salt, "s");
  EXPECT_EQ(r.model, "m");
}

TEST(CompletionRequest, RequestWinsOverModelWinsOverDefault) {
  const GenerationDefaults defaults{
      .temperature = 0.2, .top_p = 0.8, .min_p = 0.05, .repetition_penalty = 1.2, .top_k = 40};
  const SamplingParams left_out = completion(R"({"prompt": "x", "top_p": null})", defaults).params;
  EXPECT_EQ(left_out.temperature, 0.2);
  EXPECT_EQ(left_out.top_p, 0.8);
  EXPECT_EQ(left_out.min_p, 0.05);
  EXPECT_EQ(left_out.repetition_penalty, 1.2);
  EXPECT_EQ(left_out.top_k, 40);
  const SamplingParams stated =
      completion(
          R"({"prompt": "x", "temperature": 0, "top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1})",
          defaults)
          .params;
  EXPECT_EQ(stated.temperature, 0);
  EXPECT_EQ(stated.top_p, 1);
  EXPECT_EQ(stated.top_k, 0);
  EXPECT_EQ(stated.min_p, 0);
  EXPECT_EQ(stated.repetition_penalty, 1);
}

TEST(CompletionRequest, TypesAreChecked) {
  for (const char* field :
       {"max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "n", "logprobs", "priority",
        "prompt_logprobs", "min_tokens", "presence_penalty", "echo", "ignore_eos", "stop_token_ids",
        "logit_bias", "stream", "return_token_ids"})
    EXPECT_EQ(refused(std::string("\"") + field + "\": \"5\""), field) << field;
  EXPECT_EQ(refused(R"("max_tokens": 1.5)"), "max_tokens");
  EXPECT_EQ(refused(R"("max_tokens": true)"), "max_tokens");
  EXPECT_EQ(refused(R"("logprobs": true)"), "logprobs");
  EXPECT_EQ(refused(R"("echo": 1)"), "echo");
  EXPECT_EQ(refused(R"("stop": 5)"), "stop");
  EXPECT_EQ(refused(R"("stop": ["a", 5])"), "stop");
  EXPECT_EQ(refused(R"("logit_bias": {"a": 1})"), "logit_bias");
  EXPECT_EQ(refused(R"("logit_bias": {"1": "1"})"), "logit_bias");
  EXPECT_EQ(refused(R"("cache_salt": 1)"), "cache_salt");
  EXPECT_EQ(refused(R"("model": 1)"), "model");
  EXPECT_EQ(completion(R"({"prompt": "x", "max_tokens": 5.0})").params.max_tokens, 5);
}

TEST(CompletionRequest, RangesAreChecked) {
  for (const auto& [field, value] :
       std::vector<std::pair<std::string, std::string>>{{"max_tokens", "-1"},
                                                        {"temperature", "-0.1"},
                                                        {"top_p", "0"},
                                                        {"top_p", "1.1"},
                                                        {"top_k", "-2"},
                                                        {"min_p", "2"},
                                                        {"repetition_penalty", "0"},
                                                        {"presence_penalty", "2.5"},
                                                        {"frequency_penalty", "-3"},
                                                        {"n", "0"},
                                                        {"min_tokens", "-1"},
                                                        {"min_tokens", "17"},
                                                        {"logprobs", "-1"},
                                                        {"logprobs", "1000000"},
                                                        {"stop", "\"\""},
                                                        {"stop_token_ids", "[-1]"},
                                                        {"logit_bias", "{\"1\": 101}"},
                                                        {"seed", "9223372036854775808"},
                                                        {"max_tokens", "1e30"}})
    EXPECT_EQ(refused("\"" + field + "\": " + value), field) << value;
}

TEST(CompletionRequest, WhatTheEngineLacksIsRefusedByName) {
  EXPECT_EQ(refused(R"("suffix": "x")"), "suffix");
  EXPECT_EQ(refused(R"("best_of": 2)"), "best_of");
  EXPECT_EQ(refused(R"("best_of": 2, "n": 2)"), "(accepted)");
  EXPECT_EQ(refused(R"("use_beam_search": true)"), "use_beam_search");
  EXPECT_EQ(refused(R"("guided_whitespace_pattern": " ")"), "guided_whitespace_pattern");
  EXPECT_EQ(refused(R"("logits_processors": ["x"])"), "logits_processors");
  EXPECT_EQ(
      refused(
          R"("suffix": null, "use_beam_search": false, "length_penalty": 1.0, "response_format": {"type": "text"})"),
      "(accepted)");
  EXPECT_EQ(refused(R"("user": "u", "something_new": {"a": [1]})"), "something_new");
}

TEST(CompletionRequest, EchoWithLogprobsScoresThePrompt) {
  const ApiRequest r =
      completion(R"({"prompt": [1, 2], "echo": true, "logprobs": 3, "max_tokens": 0})");
  EXPECT_EQ(r.params.prompt_logprobs, 3);
  EXPECT_EQ(r.params.max_tokens, 0);
  EXPECT_FALSE(r.return_prompt_logprobs);
  EXPECT_EQ(completion(R"({"prompt": "x", "max_tokens": null})").params.max_tokens, -1);
}

TEST(ChatRequest, DefaultsAndTemplateVariables) {
  const ApiRequest r =
      chat(R"({"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function",
      "function": {"name": "f", "z": 1, "a": 2}}], "chat_template_kwargs": {"enable_thinking": false}, "max_tokens": 5, "max_completion_tokens": 6})");
  EXPECT_EQ(r.params.max_tokens, 6);
  EXPECT_EQ(
      dump(r.template_options),
      R"({"enable_thinking":false,"tools":[{"type":"function","function":{"name":"f","z":1,"a":2}}]})");
  EXPECT_TRUE(r.add_generation_prompt);
  EXPECT_FALSE(r.add_special_tokens);
  EXPECT_EQ(chat(R"({"messages": [{"role": "user", "content": "hi"}]})").params.max_tokens, -1);
}

TEST(ChatRequest, Logprobs) {
  const std::string messages = R"({"messages": [{"role": "user", "content": "hi"}])";
  EXPECT_FALSE(chat(messages + "}").params.logprobs);
  EXPECT_EQ(chat(messages + R"(, "logprobs": true})").params.logprobs, 0);
  EXPECT_EQ(chat(messages + R"(, "logprobs": true, "top_logprobs": 4})").params.logprobs, 4);
  EXPECT_EQ(refused_chat(R"("top_logprobs": 4)"), "top_logprobs");
  EXPECT_EQ(refused_chat(R"("logprobs": 4)"), "logprobs");
  EXPECT_EQ(refused_chat(R"("logprobs": true, "top_logprobs": 1000)"), "logprobs");
}

TEST(ChatRequest, RefusesByName) {
  EXPECT_EQ(refused_chat(R"("tool_choice": "required")"), "tool_choice");
  EXPECT_EQ(refused_chat(R"("tool_choice": {"type": "function"})"), "tool_choice");
  EXPECT_EQ(refused_chat(R"("tool_choice": "auto")"), "(accepted)");
  EXPECT_EQ(refused_chat(R"("audio": {})"), "audio");
  EXPECT_EQ(refused_chat(R"("modalities": ["text", "audio"])"), "modalities");
  EXPECT_EQ(refused_chat(R"("response_format": {"type": "json_schema"})"), "response_format");
  EXPECT_EQ(refused_chat(R"("continue_final_message": true, "add_generation_prompt": true)"),
            "continue_final_message");
  for (const char* messages :
       {"[]", "{}", "\"hi\"", "[1]", "[{}]", R"([{"role": "user", "content": 5}])",
        R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
        R"([{"role": "user", "content": [{"type": "text"}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}])"})
    EXPECT_EQ(
        refused_field(Endpoint::kChatCompletions, std::string(R"({"messages": )") + messages + "}"),
        "messages")
        << messages;
}

TEST(ChatRequest, MembersOfMessagesAreTyped) {
  EXPECT_EQ(
      refused_field(Endpoint::kChatCompletions, R"({"messages": [{"role": 1, "content": "x"}]})"),
      "role");
  EXPECT_EQ(refused_field(Endpoint::kChatCompletions,
                          R"({"messages": [{"role": "assistant", "tool_calls": {}}]})"),
            "tool_calls");
}

TEST(Messages, AreNormalized) {
  const Json in = parse_body(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{\"z\": 1, \"a\": 2}"}}]},
      {"role": "tool", "content": "r", "name": "f"}])");
  EXPECT_EQ(
      dump(normalize_messages(in)),
      R"([{"role":"user","content":"a\nb"},{"role":"assistant","content":"","tool_calls":[{"id":"1","function":)"
      R"({"name":"f","arguments":{"z":1,"a":2}}}]},{"role":"tool","content":"r","name":"f"}])");
}

TEST(Body, IsStrictJson) {
  for (const char* body : {"", "{", "nul", "[1,]", "{\"a\": NaN}", "{\"a\": Infinity}",
                           "{\"a\": 1e999}", "{'a': 1}", "{} {}", "\"\xff\""})
    EXPECT_THROW(parse_body(body), InvalidArgument) << body;
  EXPECT_EQ(refused_field(Endpoint::kCompletions, "[1]"), "body");
}

TEST(Body, DepthSizeAndMembersAreCapped) {
  const auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  EXPECT_NO_THROW(parse_body(nested(100)));
  EXPECT_THROW(parse_body(nested(101)), InvalidArgument);
  EXPECT_THROW(parse_body(nested(1'000'000)), InvalidArgument);
  EXPECT_NO_THROW(
      parse_body("[\"" + std::string(1000, '[') + "\"]"));  // brackets of a string do not count
  EXPECT_THROW(parse_body("[1, 2, 3]", 8), InvalidArgument);
  std::string members;
  for (int i = 0; i <= 10'000; ++i) members += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
  EXPECT_THROW(parse_body("{" + members + "}"), InvalidArgument);
}

TEST(Body, ComplaintsStateValueAndWhatIsAllowed) {
  try {
    completion(R"({"prompt": "x", "max_tokens": "5"})");
    FAIL();
  } catch (const InvalidArgument& e) {
    EXPECT_STREQ(e.what(), "max_tokens: is a string; must be an integer");
  }
}

}  // namespace
}  // namespace nanovllm::openai
