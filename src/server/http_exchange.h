// Exchange: one request's response on its way from whoever writes it (any thread, through a
// Responder) to the connection that sends it (the I/O thread). It frames the bytes and keeps what
// the socket has not taken yet.
//
// Shared by the Responder and the connection. Callbacks are called without the lock held.
#pragma once

#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>

#include "server/http_server.h"

namespace nanovllm::http {

class Exchange {
 public:
  struct Terms {
    int version = 11;
    bool head_request = false;  // HEAD: the body is not sent
    bool keep_alive = true;     // what the client asks for
    size_t unsent_limit = 0;
  };
  // notify: tells the connection, from any thread, that take() has something.
  Exchange(Terms terms, std::function<void()> notify);

  // The writer's side: see Responder.
  void add_header(std::string name, std::string value);
  void send(int status, const Headers& headers, std::string body);
  void start_stream(int status, const Headers& headers);
  bool write(std::string_view bytes);
  void finish(bool whole = true);  // not whole: the connection will be closed
  void abandon();                  // nobody is left to write
  bool started() const;
  bool gone() const;
  size_t unsent() const;
  void on_disconnect(std::function<void()> callback);
  void on_done(std::function<void(const Outcome&)> callback);

  // The connection's side, I/O thread.
  enum class Progress { kMore, kFinished, kDropped };
  Progress take(std::string* bytes);  // *bytes: what is to be sent now, replaced
  void sent(size_t bytes);
  bool finished() const;    // nothing more will be written
  bool keep_alive() const;  // once it is finished
  void close_after();       // this is the connection's last response
  void complete();          // all of it has been sent
  void disconnect();        // the client has left; nothing after complete()

 private:
  void notify(std::unique_lock<std::mutex>& lock);

  const Terms terms_;
  const std::function<void()> notify_;

  mutable std::mutex mutex_;
  std::string out_;
  size_t unsent_ = 0;  // of out_ and of what was taken
  bool notified_ = false, started_ = false, finished_ = false, dropped_ = false, gone_ = false,
       chunked_ = false, keep_alive_, done_ = false;
  Headers headers_;  // those of add_header
  Outcome outcome_;
  std::function<void()> on_disconnect_;
  std::function<void(const Outcome&)> on_done_;
};

}  // namespace nanovllm::http
