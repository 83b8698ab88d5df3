// The events of a stream do not depend on how its bytes arrive.
#include "client/sse_parser.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace nanovllm::client {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<std::string> events(std::string_view bytes, const std::vector<size_t>& cuts = {}) {
  SseParser parser;
  std::vector<std::string> result;
  const auto keep = [&](std::string_view data) { result.emplace_back(data); };
  size_t at = 0;
  for (const size_t cut : cuts) {
    parser.feed(bytes.substr(at, cut - at), keep);
    at = cut;
  }
  parser.feed(bytes.substr(at), keep);
  return result;
}

TEST(SseParser, ReadsEvents) {
  EXPECT_THAT(events("data: one\n\ndata:two\n\n"), ElementsAre("one", "two"));
  EXPECT_THAT(events("data: a\ndata: b\ndata\n\n"), ElementsAre("a\nb\n"));
  EXPECT_THAT(events(": comment\nevent: x\nid: 1\nretry: 5\ndata:  y\n\n"), ElementsAre(" y"));
  EXPECT_THAT(events("\xEF\xBB\xBF"
                     "data: z\n\n"),
              ElementsAre("z"));
  EXPECT_THAT(events("data:\n\n"), ElementsAre(""));
  EXPECT_THAT(events("\n\nevent: nothing\n\ndata: cut off\n"), IsEmpty());
}

TEST(SseParser, AnyCutGivesTheSame) {
  const std::string stream =
      "data: {\"text\": \"\xE2\x82\xAC\"}\r\n\r\ndata: a\rdata: b\r\r: ping\n\ndata: [DONE]\r\n\n";
  const std::vector<std::string> whole = events(stream);
  EXPECT_THAT(whole, ElementsAre("{\"text\": \"\xE2\x82\xAC\"}", "a\nb", "[DONE]"));
  for (size_t i = 0; i <= stream.size(); ++i)
    for (size_t j = i; j <= stream.size(); ++j) ASSERT_EQ(events(stream, {i, j}), whole);
}

TEST(SseParser, MemoryIsBounded) {
  SseParser parser;
  const std::string piece(1 << 20, 'x');
  EXPECT_THROW(for (int i = 0; i < 20; ++i) parser.feed(piece, [](std::string_view) {}), Error);
}

}  // namespace
}  // namespace nanovllm::client
