// The HTTP/1.1 server: sockets, limits and timeouts, TLS, and responses that may be written from
// any thread. It knows nothing of language models.
//
// One thread, owned by the Server, does all input and output and calls the handler, which must not
// block: it takes the request and answers later, from whatever thread, through the Responder. A
// client that reads slowly costs at most Limits::unsent_bytes and never holds up a writer; one that
// leaves is noticed at once, whether anything is being written or not.
//
// Boost.Asio and Beast stay behind this header (http_connection.h, http_server.cc).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "server/http_message.h"

namespace nanovllm::http {

// How a response ended.
struct Outcome {
  int status = 0;
  uint64_t bytes = 0;     // of the body, given to the socket
  bool complete = false;  // false: the client left, or was dropped for reading too slowly
};

class Exchange;  // one request's response, shared with its connection

// The answer to one request. Any thread, several at once; calls that come too late are ignored. If
// the last reference goes before the response is finished, the client gets a 500 (or, in the middle
// of a stream, a closed connection).
class Responder {
 public:
  explicit Responder(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  ~Responder();
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  // Goes with whatever response is sent; before send() or start_stream().
  void add_header(std::string name, std::string value);

  // A whole response. Content-Length, Date and Connection are added.
  void send(int status, const Headers& headers, std::string body);

  // A response in pieces: start, any number of writes, finish.
  void start_stream(int status, const Headers& headers);
  // False: the client has left, or was more than Limits::unsent_bytes behind and is being dropped.
  bool write(std::string_view bytes);
  size_t unsent() const;  // bytes that the socket has not taken yet
  void finish();
  // Ends a stream so that the client sees it was cut: the connection is closed.
  void cut();

  bool started() const;  // send() or start_stream() was called
  bool gone() const;     // the client left before the response was finished

  // Called once, if and when the client leaves (or is dropped) before the response is finished; at
  // once if it already has. Must not block.
  void on_disconnect(std::function<void()> callback);
  // Called once when the response is over, one way or the other, after on_disconnect.
  void on_done(std::function<void(const Outcome&)> callback);

 private:
  std::shared_ptr<Exchange> exchange_;
};

using ResponderPtr = std::shared_ptr<Responder>;
using Handler = std::function<void(Request, ResponderPtr)>;

struct Limits {
  size_t header_bytes = 32 << 10;  // request line and header
  size_t body_bytes = 32 << 20;
  size_t uploading_bytes = 256 << 20;  // of all bodies that are being received
  size_t unsent_bytes = 1 << 20;       // a stream further behind than this is dropped
  size_t connections = 20'000;
  std::chrono::milliseconds header_timeout{20'000};  // from a request's first byte; TLS handshake
  std::chrono::milliseconds body_timeout{60'000};    // from the end of the header
  std::chrono::milliseconds idle_timeout{120'000};   // between requests, and before the first
  std::chrono::milliseconds write_timeout{60'000};   // the client takes nothing at all
};

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000;                   // 0: any free one
  std::string ssl_certfile, ssl_keyfile;  // PEM; empty: no TLS
  Limits limits;
  // The body and Content-Type of what the server itself refuses. Default: the reason as plain text.
  std::function<std::string(int status, const std::string& reason)> error_body;
  std::string error_content_type = "text/plain; charset=utf-8";
  // Told of each such request, on the I/O thread and before it is answered, with as much of it as
  // was understood: for logs. May be null.
  std::function<void(const Request&, const ResponderPtr&)> on_refusal;
};

class Server {
 public:
  // Takes the address, but does not listen yet. Throws Error: the address is in use, no such host,
  // a certificate that cannot be read.
  Server(ServerOptions options, Handler handler);
  ~Server();  // as stop()

  uint16_t port() const;
  std::string url() const;  // "http://127.0.0.1:8000"

  void start();  // listens, and starts the thread
  // Accepts nothing more and closes what is idle; what runs goes on, further requests get a 503.
  // drained is called on the server's thread once nothing runs.
  void drain(std::function<void()> drained);
  void stop();  // closes everything and joins the thread

  // For tests and metrics.
  size_t num_connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nanovllm::http
