// Connection: one client's socket. It reads requests, hands them to the handler one after another,
// and writes their responses; it enforces the limits of http_server.h. Included by http_server.cc
// only: Boost takes 16 s to compile.
//
// I/O thread only. A pending read, write or timer keeps the connection alive; the server holds a
// weak pointer. Reading goes on while a response is being made, for that is how a client's leaving
// is noticed; what it sends in the meantime waits in the buffer, kMaxPipelined bytes at most.
#pragma once

#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "server/http_exchange.h"

namespace nanovllm::http {

namespace asio = boost::asio;
namespace beast = boost::beast;
using tcp = asio::ip::tcp;
using Clock = std::chrono::steady_clock;

class ConnectionBase {
 public:
  virtual ~ConnectionBase() = default;
  virtual void close() = 0;          // at once
  virtual void close_if_idle() = 0;  // between two requests
  virtual void check_deadline(Clock::time_point now) = 0;
};

// What the connections of a server share. I/O thread only, but for io.
struct ServerState {
  ServerOptions options;
  Handler handler;
  std::shared_ptr<asio::io_context> io = std::make_shared<asio::io_context>(1);
  std::unordered_map<const void*, std::weak_ptr<ConnectionBase>> connections;
  size_t uploading = 0;  // bytes of bodies that are being received
  size_t running = 0;    // requests whose response is not yet sent
  bool draining = false;
  std::function<void()> drained;

  void check_drained() {
    if (draining && running == 0 && drained) std::exchange(drained, nullptr)();
  }
};

template <class Stream>
class Connection final : public ConnectionBase,
                         public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, std::string remote_address, std::shared_ptr<ServerState> server)
      : stream_(std::move(stream)),
        remote_address_(std::move(remote_address)),
        server_(std::move(server)) {}

  ~Connection() override {
    forget_body();
    server_->connections.erase(this);
  }

  void start() {
    server_->connections.emplace(this, this->weak_from_this());
    if constexpr (kTls) {
      set_deadline(limits().header_timeout);
      stream_.async_handshake(asio::ssl::stream_base::server,
                              [self = this->shared_from_this()](beast::error_code error) {
                                if (error || self->state_ == State::kClosed) return self->close();
                                self->await_request();
                                self->read();
                              });
    } else {
      await_request();
      read();
    }
  }

  void close() override {
    if (state_ == State::kClosed) return;
    state_ = State::kClosed;
    forget_body();
    if (exchange_) {
      auto exchange = std::exchange(exchange_, nullptr);
      end_of_response();
      exchange->disconnect();
    }
    beast::error_code ignored;
    socket().close(ignored);  // pending operations end with an error
  }

  void close_if_idle() override {
    if (state_ == State::kHead && buffer_.empty()) close();
  }

  void check_deadline(Clock::time_point now) override {
    if (now < deadline_) return;
    const bool head = state_ == State::kHead && !buffer_.empty();
    if ((head || state_ == State::kBody) && !writing_)
      refuse({408, head ? "the header took too long" : "the body took too long"});
    else
      close();
  }

 private:
  static constexpr bool kTls = !std::is_same_v<Stream, tcp::socket>;
  static constexpr size_t kMaxPipelined = 64 << 10;
  static constexpr std::chrono::seconds kLinger{5};
  enum class State { kHead, kBody, kResponding, kLingering, kClosed };
  using Parser = beast::http::request_parser<beast::http::string_body>;

  const Limits& limits() const { return server_->options.limits; }
  tcp::socket& socket() {
    if constexpr (kTls)
      return stream_.next_layer();
    else
      return stream_;
  }
  void set_deadline(std::chrono::milliseconds after) { deadline_ = Clock::now() + after; }
  void no_deadline() { deadline_ = Clock::time_point::max(); }

  // Reading.

  void read() {
    if (reading_ || ended_ || state_ == State::kClosed) return;
    if (state_ == State::kResponding && buffer_.size() >= kMaxPipelined) return;
    reading_ = true;
    // A connection that says nothing holds little: a KiB.
    const size_t size = state_ == State::kBody || state_ == State::kLingering ? 64 << 10
                        : buffer_.empty()                                     ? 1 << 10
                                                                              : 8 << 10;
    if (inbox_.size() != size) inbox_ = std::vector<char>(size);
    stream_.async_read_some(asio::buffer(inbox_), [self = this->shared_from_this()](
                                                      beast::error_code error, size_t bytes) {
      self->reading_ = false;
      self->on_read(error, bytes);
    });
  }

  void on_read(beast::error_code error, size_t bytes) {
    if (error == asio::error::eof && exchange_ && exchange_->finished()) {
      ended_ = true;  // the client will say no more, but may still read what is on its way
      return exchange_->close_after();
    }
    if (error) return close();  // one that will say no more is taken for one that has left
    if (state_ == State::kClosed) return;
    if (state_ == State::kHead && buffer_.empty()) set_deadline(limits().header_timeout);
    buffer_.append(inbox_.data(), bytes);
    process();
    read();
  }

  void process() {
    if (state_ == State::kHead) read_head();
    if (state_ == State::kBody) read_body();
    if (state_ == State::kLingering) buffer_.clear();
    if (buffer_.empty() && buffer_.capacity() > 1 << 10) std::string().swap(buffer_);
  }

  void await_request() {
    state_ = State::kHead;
    searched_ = 0;
    set_deadline(buffer_.empty() ? limits().idle_timeout : limits().header_timeout);
  }

  void read_head() {
    while (buffer_.starts_with("\r\n")) buffer_.erase(0, 2);  // RFC 9112, 2.2
    const std::string_view bytes = buffer_;
    // Only new bytes are searched, so that a header sent a byte at a time costs no more.
    const size_t from = searched_ > 3 ? searched_ - 3 : 0;
    const size_t end = head_end(bytes.substr(from));
    const size_t length = end == std::string_view::npos ? bytes.size() : from + end;
    if (length > limits().header_bytes)
      return refuse(
          {431, "the header is larger than " + std::to_string(limits().header_bytes) + " bytes"});
    if (end == std::string_view::npos) {
      searched_ = bytes.size();
      return;
    }
    if (auto defect = check_head(bytes.substr(0, length))) return refuse(*defect);

    parser_ = std::make_unique<Parser>();
    parser_->header_limit(static_cast<uint32_t>(limits().header_bytes + 1));
    parser_->body_limit(boost::none);  // until it is known who asks for what
    parser_->eager(false);
    beast::error_code error;
    const size_t used = parser_->put(asio::buffer(bytes.data(), length), error);
    if (error && error != beast::http::error::need_more) return refuse(defect_of(error));
    if (!parser_->is_header_done()) return refuse({400, "the header is malformed"});
    buffer_.erase(0, used);
    begin_request();
  }

  void begin_request() {
    const auto& message = parser_->get();
    request_ = Request();
    request_.method = message.method_string();
    request_.version = static_cast<int>(message.version());
    request_.remote_address = remote_address_;
    for (const auto& field : message)
      request_.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    if (request_.version != 10 && request_.version != 11)
      return refuse({505, "HTTP versions are 1.0 and 1.1"});
    if (auto defect = check_framing(request_)) return refuse(*defect);
    if (auto defect = split_target(message.target(), &request_)) return refuse(*defect);
    if (parser_->content_length().value_or(0) > limits().body_bytes)
      return refuse({413, "the body is too large"});
    parser_->body_limit(limits().body_bytes);
    keep_alive_ = message.keep_alive();
    parser_->eager(true);
    state_ = State::kBody;
    set_deadline(limits().body_timeout);
    if (const std::string* expect = request_.header("Expect"); expect && request_.version == 11) {
      if (!equal_ignoring_case(*expect, "100-continue"))
        return refuse({417, "the only expectation is 100-continue"});
      if (!parser_->is_done() && buffer_.empty()) {
        out_ = "HTTP/1.1 100 Continue\r\n\r\n";
        write();
      }
    }
  }

  void read_body() {
    while (!parser_->is_done() && !buffer_.empty()) {
      beast::error_code error;
      const size_t used = parser_->put(asio::buffer(buffer_), error);
      buffer_.erase(0, used);
      if (error && error != beast::http::error::need_more) return refuse(defect_of(error));
      if (used == 0) {
        // The line before a chunk is not all there yet.
        if (buffer_.size() > limits().header_bytes)
          return refuse({400, "a chunk's header is too long"});
        break;
      }
    }
    const size_t size = parser_->get().body().size();
    server_->uploading += size - counted_;
    counted_ = size;
    if (server_->uploading > limits().uploading_bytes)
      return refuse({503, "too many large requests at once"});
    if (parser_->is_done()) dispatch();
  }

  static Defect defect_of(beast::error_code error) {
    if (error == beast::http::error::body_limit) return {413, "the body is too large"};
    if (error == beast::http::error::header_limit) return {431, "the header is too large"};
    return {400, "not a valid HTTP request: " + error.message()};
  }

  void forget_body() {
    server_->uploading -= std::exchange(counted_, 0);
    parser_.reset();
  }

  // Answering.

  std::shared_ptr<Exchange> begin_response(bool keep_alive) {
    state_ = State::kResponding;
    no_deadline();
    ++server_->running;
    const Exchange::Terms terms = {.version = request_.version,
                                   .head_request = request_.method == "HEAD",
                                   .keep_alive = keep_alive && !server_->draining,
                                   .unsent_limit = limits().unsent_bytes};
    exchange_ =
        std::make_shared<Exchange>(terms, [weak = this->weak_from_this(), io = server_->io] {
          asio::post(*io, [weak] {
            if (const auto self = weak.lock()) self->flush();
          });
        });
    return exchange_;
  }

  void dispatch() {
    request_.body = std::move(parser_->get().body());
    forget_body();
    const auto responder = std::make_shared<Responder>(begin_response(keep_alive_));
    if (server_->draining) return respond_refusal(responder, {503, "the server is shutting down"});
    try {
      server_->handler(std::move(request_), responder);
    } catch (const std::exception& e) {
      respond_error(*responder, {500, "the request failed"});
    }
    request_ = Request();
  }

  // What cannot be understood is answered, and nothing after it is read as a request.
  void refuse(const Defect& defect) {
    forget_body();
    buffer_.clear();
    request_.remote_address = remote_address_;
    respond_refusal(std::make_shared<Responder>(begin_response(false)), defect);
    request_ = Request();
  }

  void respond_refusal(const ResponderPtr& responder, const Defect& defect) {
    if (server_->options.on_refusal) server_->options.on_refusal(request_, responder);
    respond_error(*responder, defect);
  }

  void respond_error(Responder& responder, const Defect& defect) {
    const ServerOptions& options = server_->options;
    responder.send(defect.status, {{"Content-Type", options.error_content_type}},
                   options.error_body ? options.error_body(defect.status, defect.reason)
                                      : defect.reason + "\n");
  }

  void flush() {
    if (writing_ || !exchange_ || state_ != State::kResponding) return;
    const auto progress = exchange_->take(&out_);
    if (progress == Exchange::Progress::kDropped) return close();
    sending_ = exchange_;
    if (!out_.empty()) return write();
    if (progress == Exchange::Progress::kFinished) finish_response();
  }

  void write() {
    writing_ = true;
    written_ = 0;
    write_some();
  }

  void write_some() {
    if (state_ == State::kResponding) set_deadline(limits().write_timeout);
    stream_.async_write_some(
        asio::buffer(out_.data() + written_, out_.size() - written_),
        [self = this->shared_from_this()](beast::error_code error, size_t bytes) {
          if (error || self->state_ == State::kClosed) {
            self->writing_ = false;
            return self->close();
          }
          self->written_ += bytes;
          if (self->sending_) self->sending_->sent(bytes);
          if (self->written_ < self->out_.size()) return self->write_some();
          self->writing_ = false;
          if (self->state_ == State::kResponding) self->no_deadline();
          self->flush();
        });
  }

  void end_of_response() {
    --server_->running;
    server_->check_drained();
  }

  void finish_response() {
    const auto exchange = std::exchange(exchange_, nullptr);
    const bool keep_alive = exchange->keep_alive() && !server_->draining;
    sending_.reset();
    std::string().swap(out_);
    if (keep_alive)
      await_request();
    else
      linger();
    exchange->complete();
    end_of_response();
    if (ended_) return close();
    if (state_ == State::kClosed) return;
    process();  // a request that came in the meantime
    read();
  }

  // Closes for writing and waits for the client to do the same: closing at once could destroy what
  // it has not read yet (RFC 9112, 9.6).
  void linger() {
    state_ = State::kLingering;
    set_deadline(kLinger);
    if constexpr (kTls) {
      stream_.async_shutdown(
          [self = this->shared_from_this()](beast::error_code) { self->close(); });
    } else {
      beast::error_code ignored;
      socket().shutdown(tcp::socket::shutdown_send, ignored);
    }
  }

  Stream stream_;
  const std::string remote_address_;
  const std::shared_ptr<ServerState> server_;
  State state_ = State::kHead;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool reading_ = false, writing_ = false, keep_alive_ = true;
  bool ended_ = false;  // the client has closed its side

  std::vector<char> inbox_;  // where a pending read writes
  std::string buffer_;       // read and not yet consumed
  size_t searched_ = 0;      // of it, for the end of a header
  std::unique_ptr<Parser> parser_;
  size_t counted_ = 0;  // of the body, in server_->uploading
  Request request_;
  std::shared_ptr<Exchange> exchange_;
  std::shared_ptr<Exchange> sending_;  // whose bytes are in out_; null: a 100 Continue
  std::string out_;                    // being written
  size_t written_ = 0;
};

}  // namespace nanovllm::http
