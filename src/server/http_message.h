// What travels over HTTP/1.1, without the network: the request as a handler sees it, and the rules
// that keep a request from meaning one thing to a proxy and another to this server.
//
// Pure functions over untrusted bytes; fuzz/http_message.cc runs them. Any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nanovllm::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method;          // "GET"
  std::string path;            // decoded, without the query: "/v1/models"
  std::string query;           // as sent, without the '?'
  std::string body;            // whole, not decoded further
  std::string remote_address;  // "127.0.0.1"
  int version = 11;            // 10 or 11
  Headers headers;             // names as sent

  // The value of the first header of that name, whatever its case; null if there is none.
  const std::string* header(std::string_view name) const;
  size_t count(std::string_view name) const;
};

// A reason to refuse a message, and the status to do it with.
struct Defect {
  int status = 400;
  std::string reason;
};

// Where a message's head ends in `bytes`: behind its empty line. npos if it is not all there.
size_t head_end(std::string_view bytes);

// Looks at the raw head (request line and fields, up to and with the empty line) for what parsers
// disagree about, which is what request smuggling lives on: control characters, line ends that are
// not CRLF, lines continued by a leading space (obs-fold), space before a field's colon.
std::optional<Defect> check_head(std::string_view head);

// The same for the parsed fields: one Host, and one way only to tell where the body ends.
std::optional<Defect> check_framing(const Request& request);

// Fills path and query. Takes "/path?query", "http://host/path?query" and "*".
std::optional<Defect> split_target(std::string_view target, Request* request);

// %41 -> A; nullopt for a broken escape or an encoded NUL. '+' stays.
std::optional<std::string> percent_decode(std::string_view text);

// "example.com" of "example.com:8000", "::1" of "[::1]:8000"; lower case. nullopt: it is no host.
std::optional<std::string> host_name(std::string_view host);

// Whether a comma-separated field holds the token ("close" in "Keep-Alive, Close").
bool has_token(std::string_view field, std::string_view token);
bool equal_ignoring_case(std::string_view a, std::string_view b);

std::string_view reason_phrase(int status);

// How the receiver will know where the body ends.
enum class BodyEnd { kLength, kChunked, kClose };
// Status line and fields, with Date, Connection and what `end` asks for.
std::string response_head(int status, const Headers& headers, BodyEnd end, size_t length,
                          bool keep_alive, int version);

}  // namespace nanovllm::http
