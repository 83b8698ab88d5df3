// What counts as a token, in the chunks of this server and of others.
#include "client/openai_stream.h"

#include <gtest/gtest.h>

#include "nanovllm/error.h"

namespace nanovllm::client {
namespace {

bool token(const char* data) { return read_stream_chunk(data).token; }

TEST(StreamChunk, Tokens) {
  EXPECT_TRUE(token(R"({"choices": [{"text": "a", "finish_reason": null}]})"));
  EXPECT_TRUE(token(R"({"choices": [{"text": "", "finish_reason": null}]})"));
  EXPECT_TRUE(token(R"({"choices": [{"text": "", "token_ids": [5], "finish_reason": "stop"}]})"));
  EXPECT_TRUE(token(R"({"choices": [{"delta": {"content": "a"}}]})"));
  EXPECT_TRUE(token(R"({"choices": [{"delta": {"content": ""}, "finish_reason": null}]})"));
  EXPECT_TRUE(token(R"({"choices": [{"delta": {"tool_calls": [{}]}}]})"));
}

TEST(StreamChunk, OtherChunks) {
  EXPECT_FALSE(token(R"({"choices": [{"text": "", "finish_reason": "length"}]})"));
  EXPECT_FALSE(token(R"({"choices": [{"delta": {"role": "assistant", "content": ""}}]})"));
  EXPECT_FALSE(token(R"({"choices": [{"delta": {}, "finish_reason": "stop"}]})"));
  EXPECT_FALSE(token(R"({"choices": []})"));
  EXPECT_FALSE(token("{}"));
  EXPECT_TRUE(read_stream_chunk("[DONE]").done);
  EXPECT_EQ(read_stream_chunk(R"({"error": {"message": "no"}})").error, "no");
  EXPECT_THROW(read_stream_chunk("[1]"), Error);
  EXPECT_THROW(read_stream_chunk("{"), Error);
}

TEST(StreamChunk, Usage) {
  const auto usage = read_stream_chunk(
                         R"({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3,
                            "prompt_tokens_details": {"cached_tokens": 4}}})")
                         .usage;
  ASSERT_TRUE(usage);
  EXPECT_EQ(usage->prompt_tokens, 7);
  EXPECT_EQ(usage->completion_tokens, 3);
  EXPECT_EQ(usage->cached_tokens, 4);
  EXPECT_FALSE(read_usage("not JSON"));
  EXPECT_EQ(read_error("[]"), "");
}

}  // namespace
}  // namespace nanovllm::client
