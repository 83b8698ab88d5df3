// Responses whole and cut at every place; what is malformed is an Error.
#include "client/http_response.h"

#include <gtest/gtest.h>

namespace nanovllm::client {
namespace {

struct Result {
  std::string body;
  int status = 0;
  bool done = false, keep_alive = false, event_stream = false;
  size_t taken = 0;
  auto operator<=>(const Result&) const = default;
};

// Feeds pieces that end at `cuts`, then the rest.
Result parse(const std::string& bytes, const std::vector<size_t>& cuts = {}, bool close = false) {
  HttpResponseParser parser;
  Result r;
  size_t at = 0;
  for (size_t i = 0; i <= cuts.size(); ++i) {
    const size_t end = i < cuts.size() ? cuts[i] : bytes.size();
    r.taken += parser.feed(std::string_view(bytes).substr(at, end - at), &r.body);
    at = end;
  }
  if (close) parser.close();
  r.status = parser.status();
  r.done = parser.done();
  r.keep_alive = parser.keep_alive();
  r.event_stream = parser.event_stream();
  return r;
}

const std::string kChunked =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nC;x=y\r\n, all\r\nthere\r\n0\r\nTrailer: "
    "1\r\n\r\n";

TEST(HttpResponse, Length) {
  const Result r =
      parse("HTTP/1.1 404 Not Found\r\ncontent-length:  4 \r\nConnection: close\r\n\r\nnone");
  EXPECT_EQ(r.status, 404);
  EXPECT_EQ(r.body, "none");
  EXPECT_TRUE(r.done);
  EXPECT_FALSE(r.keep_alive);
}

TEST(HttpResponse, ChunksCutAnywhereGiveTheSame) {
  const Result whole = parse(kChunked);
  EXPECT_EQ(whole.body, "hello, all\r\nthere");
  EXPECT_TRUE(whole.done && whole.event_stream && whole.keep_alive);
  for (size_t i = 0; i <= kChunked.size(); ++i)
    for (size_t j = i; j <= kChunked.size(); j += 3) ASSERT_EQ(parse(kChunked, {i, j}), whole);
}

TEST(HttpResponse, BytesAfterTheEndAreLeft) {
  const std::string response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  const Result r = parse(response + "HTTP/1.1");
  EXPECT_EQ(r.taken, response.size());
  EXPECT_EQ(r.body, "ok");
}

TEST(HttpResponse, TheEndOfTheConnectionEndsABodyWithoutALength) {
  const Result r = parse("HTTP/1.0 200 OK\r\n\r\nabc", {}, true);
  EXPECT_EQ(r.body, "abc");
  EXPECT_TRUE(r.done);
  EXPECT_FALSE(r.keep_alive);
}

TEST(HttpResponse, InterimAnswersAndEmptyBodies) {
  const Result r =
      parse("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_EQ(r.status, 200);
  EXPECT_EQ(r.body, "x");
  EXPECT_TRUE(parse("HTTP/1.1 204 No Content\r\n\r\n").done);
  EXPECT_TRUE(parse("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").done);
}

TEST(HttpResponse, MalformedOnesAreRefused) {
  for (const char* bytes : {
           "SSH-2.0-OpenSSH\r\n",
           "HTTP/1.1 abc\r\n",
           "HTTP/2 200\r\n",
           "HTTP/1.1 200 OK\r\nno colon\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n",
           "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
       })
    EXPECT_THROW(parse(bytes), Error) << bytes;
  EXPECT_THROW(parse("HTTP/1.1 200 OK\r\nX: " + std::string(1 << 20, 'x')), Error);
  EXPECT_THROW(parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", {}, true), Error);
  EXPECT_THROW(parse("", {}, true), Error);
}

}  // namespace
}  // namespace nanovllm::client
