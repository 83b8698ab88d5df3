// Events in, server-sent events out: what the chunks add up to is tested against whole answers in
// tests/python/test_serve.py; here is what a quick model never shows.
#include "server/openai_stream.h"

#include <gtest/gtest.h>

namespace nanovllm::openai {
namespace {

ResponseContext stream_context() {
  return {.id = "cmpl-1",
          .created = 1,
          .model = "m",
          .token_text = [](int32_t id) { return "t" + std::to_string(id); },
          .decode = [](const std::vector<int32_t>&) { return std::string("prompt"); }};
}

ApiRequest streamed(const std::string& body, Endpoint endpoint = Endpoint::kCompletions) {
  return parse_request(endpoint, parse_body(body), {});
}

std::vector<Json> chunks(const std::string& events) {
  std::vector<Json> result;
  for (size_t at = 0; at < events.size();) {
    const size_t end = events.find("\n\n", at);
    const std::string data = events.substr(at + 6, end - at - 6);
    result.push_back(data == "[DONE]" ? Json(data) : Json::parse(data));
    at = end + 2;
  }
  return result;
}

std::vector<Json> tell(ChunkStream& stream, const RequestOutput& output, int index = 0,
                       size_t prompt = 0) {
  bool finished = true;
  for (const auto& c : output.outputs) finished &= c.finish_reason != FinishReason::kNone;
  return chunks(
      stream.on_event(prompt, {.index = index, .request_finished = finished, .output = &output}));
}

TEST(ChunkStream, SaysNothingWhileACharacterIsIncomplete) {
  const ApiRequest r = streamed(R"({"prompt": "x", "stream": true})");
  const ResponseContext c = stream_context();
  ChunkStream stream(r, c, 1);
  RequestOutput output{.prompt_token_ids = {1}, .outputs = {{.token_ids = {7}}}};
  EXPECT_TRUE(tell(stream, output).empty());
  output.outputs[0] = {.text = "é", .token_ids = {7, 8}};
  EXPECT_EQ(tell(stream, output)[0]["choices"][0]["text"], "é");
  output.outputs[0].finish_reason = FinishReason::kStop;
  const auto last = tell(stream, output);
  ASSERT_EQ(last.size(), 2u);
  EXPECT_EQ(last[0]["choices"][0]["text"], "");
  EXPECT_EQ(last[0]["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(last[1], "[DONE]");
  EXPECT_TRUE(stream.finished());
}

// Two completions of a prompt that is to be scored: the second found it in the cache and is done
// before the first has scored it.
TEST(ChunkStream, WaitsUntilThePromptIsScored) {
  const ApiRequest r = streamed(
      R"({"prompt": [1, 2], "stream": true, "echo": true, "logprobs": 0, "n": 2, "max_tokens": 1})");
  const ResponseContext c = stream_context();
  ChunkStream stream(r, c, 1);
  RequestOutput output{
      .prompt_token_ids = {1, 2}, .prompt_logprobs = {{}}, .outputs = {{.index = 0}, {.index = 1}}};
  output.outputs[1] = {.index = 1,
                       .text = "b",
                       .token_ids = {4},
                       .logprobs = {{{4, -1, 1}}},
                       .finish_reason = FinishReason::kLength};
  EXPECT_TRUE(tell(stream, output, 1).empty());
  output.prompt_logprobs.push_back({{2, -0.5f, 1}});
  output.outputs[0] = {.index = 0,
                       .text = "a",
                       .token_ids = {3},
                       .logprobs = {{{3, -1, 1}}},
                       .finish_reason = FinishReason::kLength};
  const auto all = tell(stream, output, 0);
  ASSERT_EQ(all.size(), 3u);
  for (size_t i = 0; i < 2; ++i) {
    const Json& choice = all[i]["choices"][0];
    EXPECT_EQ(choice["index"], i);
    EXPECT_EQ(choice["text"], i == 0 ? "prompta" : "promptb");
    EXPECT_EQ(choice["logprobs"]["token_logprobs"].size(), 3u);
    EXPECT_EQ(choice["finish_reason"], "length");
  }
}

TEST(ChunkStream, AChatBeginsWithTheRole) {
  const ApiRequest r =
      streamed(R"({"messages": [{"role": "user", "content": "x"}], "stream": true})",
               Endpoint::kChatCompletions);
  const ResponseContext c = stream_context();
  ChunkStream stream(r, c, 1);
  const auto all =
      tell(stream, {.prompt_token_ids = {1}, .outputs = {{.text = "a", .token_ids = {2}}}});
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["choices"][0]["delta"], (Json{{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(all[1]["choices"][0]["delta"], (Json{{"content", "a"}}));
  EXPECT_EQ(all[0]["object"], "chat.completion.chunk");
}

}  // namespace
}  // namespace nanovllm::openai
