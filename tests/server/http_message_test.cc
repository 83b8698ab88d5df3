// What a request may look like, byte by byte.
#include "server/http_message.h"

#include <gtest/gtest.h>

namespace nanovllm::http {
namespace {

constexpr const char* kGood = "POST /a HTTP/1.1\r\nHost: x\r\nA-b: c d\r\n\r\n";

TEST(Head, EndsBehindItsEmptyLine) {
  EXPECT_EQ(head_end(kGood), std::string(kGood).size());
  EXPECT_EQ(head_end(std::string(kGood) + "more"), std::string(kGood).size());
  EXPECT_EQ(head_end("GET / HTTP/1.1\r\nHost: x\r\n"), std::string_view::npos);
}

TEST(Head, WhatParsersDisagreeAboutIsRefused) {
  EXPECT_FALSE(check_head(kGood));
  for (const std::string bad :
       {"GET / HTTP/1.1\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", "GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", "GET / HTTP/1.1\r\n Host: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nA\tb: c\r\n\r\n", "GET / HTTP/1.1\r\nHost: \x01\r\n\r\n",
        "GET / HTTP/1.1\r\n: x\r\n\r\n", "GET / HTTP/1.1\r\nHost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nA: b\r\n\r\n", "\r\n\r\n", "", "GET / HTTP/1.1"})
    EXPECT_TRUE(check_head(bad)) << bad;
  EXPECT_TRUE(check_head(std::string("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", 30)));
}

Request with(Headers headers, int version = 11) {
  Request r;
  r.headers = std::move(headers);
  r.version = version;
  return r;
}

int status(const Request& request) {
  const auto defect = check_framing(request);
  return defect ? defect->status : 0;
}

TEST(Framing, OneHostAndOneWayToEndTheBody) {
  EXPECT_EQ(status(with({{"Host", "x"}})), 0);
  EXPECT_EQ(status(with({{"hOST", "x"}, {"content-length", "12"}})), 0);
  EXPECT_EQ(status(with({{"Host", "x"}, {"Transfer-Encoding", "Chunked"}})), 0);
  EXPECT_EQ(status(with({}, 10)), 0);
  EXPECT_EQ(status(with({})), 400);
  EXPECT_EQ(status(with({{"Host", "x"}, {"Host", "x"}})), 400);
  EXPECT_EQ(status(with({{"Host", "x"}, {"Content-Length", "3"}, {"Content-Length", "3"}})), 400);
  EXPECT_EQ(
      status(with({{"Host", "x"}, {"Content-Length", "3"}, {"Transfer-Encoding", "chunked"}})),
      400);
  for (const char* length : {"", "+3", "-3", "3, 3", "0x3", "3 ", "1e3", "99999999999999999999"})
    EXPECT_EQ(status(with({{"Host", "x"}, {"Content-Length", length}})), 400) << length;
  for (const char* coding : {"gzip", "chunked, chunked", "gzip, chunked", "identity", "x chunked"})
    EXPECT_EQ(status(with({{"Host", "x"}, {"Transfer-Encoding", coding}})), 501) << coding;
  EXPECT_EQ(status(with({{"Host", "x"}, {"Transfer-Encoding", "chunked"}}, 10)), 400);
}

TEST(Target, PathAndQuery) {
  Request r;
  EXPECT_FALSE(split_target("/v1/models/a%2Fb?x=%41", &r));
  EXPECT_EQ(r.path, "/v1/models/a/b");
  EXPECT_EQ(r.query, "x=%41");
  EXPECT_FALSE(split_target("http://host:1/p?q", &r));
  EXPECT_EQ(r.path, "/p");
  EXPECT_FALSE(split_target("HTTP://host", &r));
  EXPECT_EQ(r.path, "/");
  EXPECT_FALSE(split_target("*", &r));
  for (const char* bad : {"", "p", "ftp://x/", "/%", "/%4", "/%zz", "/%00", "/a#b", "host:80"})
    EXPECT_TRUE(split_target(bad, &r)) << bad;
}

TEST(Host, TheNameWithoutThePort) {
  EXPECT_EQ(host_name("Example.COM:80"), "example.com");
  EXPECT_EQ(host_name("localhost."), "localhost");
  EXPECT_EQ(host_name("[::1]:8000"), "::1");
  for (const char* bad : {"", ":80", "a:b", "a/b", "user@host", "[::1", "[::1]x", "a b", "a,b"})
    EXPECT_FALSE(host_name(bad)) << bad;
}

TEST(Token, InACommaSeparatedField) {
  EXPECT_TRUE(has_token("Keep-Alive, Close", "close"));
  EXPECT_FALSE(has_token("closed", "close"));
  EXPECT_FALSE(has_token("", "close"));
}

TEST(ResponseHead, SaysWhereTheBodyEndsAndKeepsToItsLines) {
  const std::string head =
      response_head(200, {{"A", "b\r\nInjected: c"}}, BodyEnd::kLength, 5, false, 11);
  EXPECT_TRUE(head.starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_NE(head.find("A: b  Injected: c\r\n"), std::string::npos);
  EXPECT_NE(head.find("Content-Length: 5\r\n"), std::string::npos);
  EXPECT_NE(head.find("Connection: close\r\n"), std::string::npos);
  EXPECT_TRUE(head.ends_with("\r\n\r\n"));
  EXPECT_EQ(response_head(204, {}, BodyEnd::kLength, 0, true, 11).find("Content-Length"),
            std::string::npos);
  EXPECT_NE(response_head(200, {}, BodyEnd::kChunked, 0, true, 11).find("chunked"),
            std::string::npos);
}

}  // namespace
}  // namespace nanovllm::http
