// RequestOutputs in, OpenAI's JSON out.
#include "server/openai_response.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace nanovllm::openai {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// A vocabulary in which token 7 is one byte of a character, 8 another, and 9 an é.
std::string token_text(int32_t id) {
  if (id == 7 || id == 8) return "\xEF\xBF\xBD";
  if (id == 9) return "é";
  return "t" + std::to_string(id);
}

ResponseContext context() {
  return {.id = "cmpl-1",
          .created = 123,
          .model = "m",
          .token_text = token_text,
          .decode = [](const std::vector<int32_t>& ids) {
            std::string text;
            for (const int32_t id : ids) text += token_text(id);
            return text;
          }};
}

// Prompt 9 1; answer 2 3 stopped by token 3.
RequestOutput output() {
  return {.request_id = 1,
          .prompt_token_ids = {9, 1},
          .prompt_logprobs = {{}, {{1, -0.5f, 1}, {1, -0.5f, 1}, {4, -1.5f, 2}}},
          .outputs = {{.index = 0,
                       .text = "t2",
                       .token_ids = {2, 3},
                       .logprobs = {{{2, -2.0f, 3}, {5, -0.25f, 1}, {7, -1.0f, 2}},
                                    {{3, -kInf, 9}, {7, -0.5f, 1}, {8, -0.75f, 2}}},
                       .finish_reason = FinishReason::kStop,
                       .stop_reason = "3"}},
          .num_cached_tokens = 1};
}

ApiRequest request(const std::string& body, Endpoint endpoint = Endpoint::kCompletions) {
  return parse_request(endpoint, parse_body(body), {});
}

Json completion_of(const std::string& body) {
  const RequestOutput out = output();
  return completion_body(request(body), context(), {&out, 1});
}

TEST(CompletionBody, Plain) {
  EXPECT_EQ(
      dump(completion_of(R"({"prompt": [9, 1]})")),
      R"({"id":"cmpl-1","object":"text_completion","created":123,"model":"m","choices":[{"index":0,"text":"t2",)"
      R"("logprobs":null,"finish_reason":"stop","stop_reason":3}],"usage":{"prompt_tokens":2,"completion_tokens":2,)"
      R"("total_tokens":4,"prompt_tokens_details":{"cached_tokens":1}}})");
}

TEST(CompletionBody, LogprobsOfTheAnswer) {
  const Json choice = completion_of(R"({"prompt": [9, 1], "logprobs": 2})")["choices"][0];
  const Json& logprobs = choice["logprobs"];
  EXPECT_EQ(dump(logprobs["tokens"]), R"(["t2","t3"])");
  EXPECT_EQ(dump(logprobs["token_logprobs"]), "[-2.0,-9999.0]");
  EXPECT_EQ(dump(logprobs["text_offset"]), "[0,2]");
  // Tokens 7 and 8 read alike; the likelier one stays.
  EXPECT_EQ(dump(logprobs["top_logprobs"]),
            R"([{"t2":-2.0,"t5":-0.25,"�":-1.0},{"t3":-9999.0,"�":-0.5}])");
}

TEST(CompletionBody, EchoHoldsThePromptWithItsLogprobs) {
  const Json choice =
      completion_of(R"({"prompt": [9, 1], "logprobs": 1, "echo": true})")["choices"][0];
  EXPECT_EQ(choice["text"], "ét1t2");
  EXPECT_EQ(dump(choice["logprobs"]["tokens"]), R"(["é","t1","t2","t3"])");
  EXPECT_EQ(dump(choice["logprobs"]["token_logprobs"]), "[null,-0.5,-2.0,-9999.0]");
  EXPECT_EQ(dump(choice["logprobs"]["text_offset"]), "[0,1,3,5]");  // characters, not bytes
  EXPECT_EQ(dump(choice["logprobs"]["top_logprobs"][0]), "null");
  EXPECT_EQ(dump(choice["logprobs"]["top_logprobs"][1]), R"({"t1":-0.5})");
  EXPECT_FALSE(choice.contains("prompt_logprobs"));
}

TEST(CompletionBody, EchoOfATextPromptIsThatText) {
  EXPECT_EQ(completion_of(R"({"prompt": "as written", "echo": true})")["choices"][0]["text"],
            "as writtent2");
}

TEST(CompletionBody, TokenIds) {
  const Json choice = completion_of(
      R"({"prompt": [9, 1], "logprobs": 1, "return_token_ids": true, "return_tokens_as_token_ids": true})")
      ["choices"][0];
  EXPECT_EQ(dump(choice["token_ids"]), "[2,3]");
  EXPECT_EQ(dump(choice["prompt_token_ids"]), "[9,1]");
  EXPECT_EQ(dump(choice["logprobs"]["tokens"]), R"(["token_id:2","token_id:3"])");
  EXPECT_EQ(dump(choice["logprobs"]["top_logprobs"][0]),
            R"({"token_id:2":-2.0,"token_id:5":-0.25})");
}

TEST(CompletionBody, PromptLogprobsAsVllmWritesThem) {
  const Json choice = completion_of(R"({"prompt": [9, 1], "prompt_logprobs": 1})")["choices"][0];
  EXPECT_EQ(
      dump(choice["prompt_logprobs"]),
      R"([null,{"1":{"logprob":-0.5,"rank":1,"decoded_token":"t1"},"4":{"logprob":-1.5,"rank":2,"decoded_token":"t4"}}])");
}

TEST(CompletionBody, ChoicesCountPromptsTimesN) {
  RequestOutput two = output();
  two.outputs.push_back(two.outputs[0]);
  two.outputs[1].index = 1;
  const std::vector<RequestOutput> outputs = {two, two};
  const Json body =
      completion_body(request(R"({"prompt": ["a", "b"], "n": 2})"), context(), outputs);
  ASSERT_EQ(body["choices"].size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(body["choices"][i]["index"], i);
  EXPECT_EQ(body["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
}

TEST(CompletionBody, StopReasons) {
  RequestOutput out = output();
  auto reason = [&](const std::string& stop_reason, const std::string& stop) {
    out.outputs[0].stop_reason = stop_reason;
    return dump(completion_body(request(R"({"prompt": "a", "stop": ")" + stop + "\"}"), context(),
                                {&out, 1})["choices"][0]["stop_reason"]);
  };
  EXPECT_EQ(reason("", "x"), "null");
  EXPECT_EQ(reason("x", "x"), R"("x")");
  EXPECT_EQ(reason("42", "x"), "42");        // a token
  EXPECT_EQ(reason("42", "42"), R"("42")");  // a string of digits
}

TEST(ChatBody, MessageAndLogprobs) {
  const ApiRequest r = request(
      R"({"messages": [{"role": "user", "content": "hi"}], "logprobs": true, "top_logprobs": 1,
                                   "return_token_ids": true})",
      Endpoint::kChatCompletions);
  const Json body = chat_body(r, context(), output());
  EXPECT_EQ(body["object"], "chat.completion");
  const Json& choice = body["choices"][0];
  EXPECT_EQ(dump(choice["message"]), R"({"role":"assistant","content":"t2","refusal":null})");
  EXPECT_EQ(
      dump(choice["logprobs"]["content"][0]),
      R"({"token":"t2","logprob":-2.0,"bytes":[116,50],"top_logprobs":[{"token":"t5","logprob":-0.25,"bytes":[116,53]}]})");
  EXPECT_EQ(dump(body["prompt_token_ids"]), "[9,1]");
  EXPECT_EQ(dump(choice["token_ids"]), "[2,3]");
}

// Every float32 reads back bit for bit.
TEST(Logprobs, RoundTrip) {
  std::mt19937 random(1);
  RequestOutput out = output();
  for (int i = 0; i < 2000; ++i) {
    float value = -std::ldexp(1.0f + static_cast<float>(random() & 0x7fffff) / 0x1p23f,
                              static_cast<int>(random() % 40) - 30);
    if (value <= -9999) continue;
    out.outputs[0].logprobs[0][0].logprob = value;
    const std::string text =
        dump(completion_body(request(R"({"prompt": "a", "logprobs": 0})"), context(), {&out, 1}));
    const auto back = static_cast<float>(
        Json::parse(text)["choices"][0]["logprobs"]["token_logprobs"][0].get<double>());
    ASSERT_EQ(0, std::memcmp(&back, &value, sizeof value)) << value;
  }
}

TEST(ErrorBody, HasOpenAisShape) {
  EXPECT_EQ(
      dump(error_body(InvalidArgument("top_p", "is 2"), 400)),
      R"({"error":{"message":"top_p: is 2","type":"BadRequestError","param":"top_p","code":400}})");
  EXPECT_EQ(error_body(Error("model", "no"), 400)["error"]["param"], nullptr);
}

}  // namespace
}  // namespace nanovllm::openai
