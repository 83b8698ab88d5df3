// LoadGenerator: sends many HTTP requests at their times, holds their streams open together, and
// notes when every token came. One thread and epoll, so that it takes little from a server on the
// same machine: hundreds of streams cost one read and one small JSON document a token.
//
// Closed loop: all start times 0 and max_concurrency clients, each sends its next request when it
// has its answer. Open loop: requests start at their times whatever the server does.
// Connections are kept and used again, as browsers and the OpenAI client do.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "client/openai_stream.h"

namespace nanovllm::client {

// Where a server is: http://host[:port][/prefix].
struct ServerAddress {
  std::string host = "127.0.0.1", port = "8000", prefix;

  // Throws InvalidArgument(flag, ...).
  static ServerAddress parse(const std::string& flag, const std::string& url);
  std::string text() const;
};

struct LoadRequest {
  std::string path;  // "/v1/completions", after the address's prefix
  std::string body;  // JSON, sent by POST; empty: GET
  double start = 0;  // seconds after the beginning, not before
};

// Times in seconds after the beginning.
struct LoadOutcome {
  bool ok = false;  // status 200, and a stream that ended as it should
  int status = 0;   // 0: no answer
  std::string error;
  double start = 0, end = 0;        // first byte sent, last byte received
  std::vector<double> token_times;  // of each chunk that carries tokens
  std::optional<Usage> usage;
  std::string body;  // of an answer that is no event stream

  int64_t output_tokens() const {  // as the server counts them, or the chunks
    return usage ? usage->completion_tokens : static_cast<int64_t>(token_times.size());
  }
};

struct LoadOptions {
  ServerAddress address;
  std::vector<std::string> headers;  // "Name: value", besides those that every request has
  int64_t max_concurrency = 0;       // 0: no limit
  double timeout = 6 * 3600;         // seconds a request may take
  // Called at least ten times a second; false ends the run, unfinished requests fail.
  std::function<bool(int64_t done, int64_t running)> on_progress;
};

// One outcome a request, in order. Throws Error if the address has no host or if the process may
// not open as many connections as it needs; what goes wrong with a request is in its outcome.
std::vector<LoadOutcome> run_load(const LoadOptions& options,
                                  const std::vector<LoadRequest>& requests);

}  // namespace nanovllm::client
