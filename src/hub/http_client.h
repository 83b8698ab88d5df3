// HTTP GET over libcurl, as much of it as a hub needs: a small document into memory, a large file
// onto the disk with resumption. Redirects are followed; the token goes to the first host only.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "hub/hub.h"

namespace nanovllm {

struct HttpResponse {
  long status = 0;
  std::string body;  // get(): the document; download(): the start of an error's text
  std::map<std::string, std::string>
      headers;  // names in lower case; of all answers of a redirect chain, the first wins
};

// One connection pool; use from one thread.
class HttpClient {
 public:
  // token: empty, or sent as "Authorization: Bearer ..." to the host of the URL and to no other.
  explicit HttpClient(std::string token);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Throws Error(url, reason) if there is no answer or it is larger than max_bytes. Any status is
  // an answer.
  HttpResponse get(const std::string& url, size_t max_bytes);

  // Appends to the file at `path` from its present end on (a Range request), or rewrites it where
  // the server does not resume. on_bytes is called with the file's size so far and false stops.
  // Returns the status: 200 and 206 are success, for any other the file is as it was. Throws
  // ConnectionLost if the connection broke (what came is kept), Error for the rest: no host, no
  // space, a stopped transfer (Cancelled).
  HttpResponse download(const std::string& url, const std::string& path, int64_t max_bytes,
                        const std::function<bool(int64_t)>& on_bytes);

 private:
  void* easy_;  // CURL*
  std::string token_;
};

class ConnectionLost : public Error {
 public:
  using Error::Error;
};

std::string url_escape(const std::string& text, bool keep_slashes);

}  // namespace nanovllm
