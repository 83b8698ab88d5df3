#include "client/load_generator.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <utility>

#include "client/http_response.h"
#include "client/sse_parser.h"

namespace nanovllm::client {
namespace {

constexpr size_t kMaxBody = size_t{16} << 20;  // of an answer that is no event stream

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;
  int family = 0;
};

SocketAddress resolve(const ServerAddress& address) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  const int error = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) throw Error(address.text(), ::gai_strerror(error));
  SocketAddress result;
  std::memcpy(&result.storage, found->ai_addr, found->ai_addrlen);
  result.size = found->ai_addrlen;
  result.family = found->ai_family;
  ::freeaddrinfo(found);
  return result;
}

// A connection and the request it carries, if any.
struct Connection {
  FileDescriptor socket;
  std::string out;  // what is to be sent
  size_t sent = 0;
  size_t request = 0;   // index
  bool busy = false;    // carries a request
  bool reused = false;  // has answered one before
  HttpResponseParser response;
  SseParser events;
  bool stream_done = false;
};

class Run {
 public:
  Run(const LoadOptions& options, const std::vector<LoadRequest>& requests)
      : options_(options),
        requests_(requests),
        address_(resolve(options.address)),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)),
        outcomes_(requests.size()),
        order_(requests.size()) {
    if (epoll_.get() < 0) throw Error("epoll", std::strerror(errno));
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::ranges::stable_sort(order_, {}, [&](size_t i) { return requests_[i].start; });
    for (const std::string& header : options_.headers) headers_ += header + "\r\n";
  }

  std::vector<LoadOutcome> run() {
    begin_ = Clock::now();
    double next_progress = 0;
    epoll_event ready[256];
    while (done_ < requests_.size()) {
      start_due_requests();
      const int n = ::epoll_wait(epoll_.get(), ready, std::size(ready), wait_milliseconds());
      if (n < 0 && errno != EINTR) throw Error("epoll", std::strerror(errno));
      const double time = now();
      for (int i = 0; i < n; ++i)
        on_ready(*static_cast<Connection*>(ready[i].data.ptr), ready[i].events, time);
      closed_.clear();
      if (time < next_progress) continue;
      next_progress = time + 0.1;
      fail_late_requests(time);
      if (options_.on_progress &&
          !options_.on_progress(static_cast<int64_t>(done_), static_cast<int64_t>(running_)))
        break;
    }
    for (const auto& c : connections_)
      if (c->busy) outcomes_[c->request].error = "interrupted";
    return std::move(outcomes_);
  }

 private:
  using Clock = std::chrono::steady_clock;

  double now() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

  bool may_start() const {
    return next_ < order_.size() && (options_.max_concurrency == 0 ||
                                     running_ < static_cast<size_t>(options_.max_concurrency));
  }

  int wait_milliseconds() const {
    if (!may_start()) return 100;
    const double wait = requests_[order_[next_]].start - now();
    return static_cast<int>(std::clamp(std::ceil(wait * 1e3), 0.0, 100.0));
  }

  void start_due_requests() {
    while (may_start() && requests_[order_[next_]].start <= now()) start(order_[next_++]);
  }

  void start(size_t index) {
    outcomes_[index].start = now();
    ++running_;
    const auto idle = std::ranges::find_if(connections_, [](const auto& c) { return !c->busy; });
    send_on(idle != connections_.end() ? idle->get() : connect(), index);
  }

  Connection* connect() {
    auto c = std::make_unique<Connection>();
    c->socket =
        FileDescriptor(::socket(address_.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (c->socket.get() < 0)
      throw Error(std::to_string(connections_.size() + 1) + " connections", std::strerror(errno));
    const int on = 1;
    ::setsockopt(c->socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    // What is wrong shows when the first bytes are sent.
    ::connect(c->socket.get(), reinterpret_cast<const sockaddr*>(&address_.storage), address_.size);
    epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                      .data = {.ptr = c.get()}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, c->socket.get(), &event) != 0)
      throw Error("epoll", std::strerror(errno));
    connections_.push_back(std::move(c));
    return connections_.back().get();
  }

  void send_on(Connection* c, size_t index) {
    const LoadRequest& request = requests_[index];
    c->request = index;
    c->busy = true;
    c->response = HttpResponseParser();
    c->events = SseParser();
    c->stream_done = false;
    c->sent = 0;
    c->out = (request.body.empty() ? "GET " : "POST ") + options_.address.prefix + request.path +
             " HTTP/1.1\r\nHost: " + options_.address.host + ":" + options_.address.port +
             "\r\nUser-Agent: nano-vllm-bench\r\n" + headers_;
    if (!request.body.empty())
      c->out += "Content-Type: application/json\r\nContent-Length: " +
                std::to_string(request.body.size()) + "\r\n";
    c->out += "\r\n" + request.body;
    if (c->reused) write(*c);  // a new one is written to once it is connected
  }

  void on_ready(Connection& c, uint32_t events, double time) {
    if (c.socket.get() < 0) return;  // closed while this batch of events was worked through
    if (c.busy && (events & EPOLLOUT)) write(c);
    if (c.socket.get() >= 0 && (events & ~static_cast<uint32_t>(EPOLLOUT)))
      read(c, time, events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
  }

  void write(Connection& c) {
    while (c.sent < c.out.size()) {
      const ssize_t n =
          ::send(c.socket.get(), c.out.data() + c.sent, c.out.size() - c.sent, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (n < 0) {
        // A server that refuses a request early may have answered before it closed.
        if (errno == EPIPE || errno == ECONNRESET) return;
        return broken(c, std::strerror(errno));
      }
      c.sent += static_cast<size_t>(n);
    }
  }

  // ending: the server has sent its last byte. Otherwise a short read has taken all there is.
  void read(Connection& c, double time, bool ending) {
    char buffer[64 << 10];
    while (true) {
      const ssize_t n = ::recv(c.socket.get(), buffer, sizeof buffer, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
      if (n < 0) return broken(c, std::strerror(errno));
      if (!c.busy) return close(c);  // closed while idle, or bytes that nobody asked for
      try {
        if (n == 0)
          c.response.close();
        else
          take(c, {buffer, static_cast<size_t>(n)}, time);
      } catch (const Error& e) {
        return broken(c, e.what());
      }
      if (c.response.done()) finished(c, time);
      if (c.socket.get() < 0 || (!ending && n < static_cast<ssize_t>(sizeof buffer))) return;
    }
  }

  void take(Connection& c, std::string_view bytes, double time) {
    LoadOutcome& outcome = outcomes_[c.request];
    std::string body;
    c.response.feed(bytes, &body);
    outcome.status = c.response.status();
    if (c.response.event_stream() && outcome.status == 200) {
      c.events.feed(body, [&](std::string_view data) {
        const StreamChunk chunk = read_stream_chunk(data);
        if (chunk.token) outcome.token_times.push_back(time);
        if (chunk.usage) outcome.usage = chunk.usage;
        if (!chunk.error.empty()) outcome.error = chunk.error;
        c.stream_done |= chunk.done;
      });
    } else {
      if (outcome.body.size() + body.size() > kMaxBody) throw Error("response", "is too large");
      outcome.body += body;
    }
  }

  void finished(Connection& c, double time) {
    LoadOutcome& outcome = outcomes_[c.request];
    outcome.end = time;
    if (outcome.status != 200) {
      outcome.error = "status " + std::to_string(outcome.status);
      const std::string message = read_error(outcome.body);
      if (!message.empty()) outcome.error += ": " + message;
    } else if (c.response.event_stream()) {
      if (outcome.error.empty() && !c.stream_done) outcome.error = "the stream ended early";
    } else {
      outcome.usage = read_usage(outcome.body);
    }
    outcome.ok = outcome.error.empty();
    const bool keep = c.response.keep_alive() && c.sent == c.out.size();
    c.busy = false;
    c.reused = true;
    --running_;
    ++done_;
    if (!keep) close(c);
  }

  // The connection failed. A kept one may have been closed by the server just when it was used
  // again: the request then goes to a new one.
  void broken(Connection& c, const std::string& reason) {
    const bool busy = c.busy, again = c.reused && !c.response.started();
    const size_t index = c.request;
    close(c);
    if (!busy) return;
    if (again) return send_on(connect(), index);
    fail(index, reason);
  }

  void fail(size_t index, const std::string& reason) {
    outcomes_[index].error = reason;
    outcomes_[index].end = now();
    --running_;
    ++done_;
  }

  void fail_late_requests(double time) {
    std::vector<Connection*> late;
    for (const auto& c : connections_)
      if (c->busy && time - outcomes_[c->request].start > options_.timeout) late.push_back(c.get());
    for (Connection* c : late) {
      const size_t index = c->request;
      close(*c);
      fail(index, "timed out");
    }
    closed_.clear();
  }

  // Events of this epoll round may still name the connection, so it stays until the round's end.
  void close(Connection& c) {
    c.socket = FileDescriptor();
    c.busy = false;
    const auto found =
        std::ranges::find_if(connections_, [&](const auto& other) { return other.get() == &c; });
    closed_.push_back(std::move(*found));
    connections_.erase(found);
  }

  const LoadOptions& options_;
  const std::vector<LoadRequest>& requests_;
  SocketAddress address_;
  FileDescriptor epoll_;
  std::string headers_;
  std::vector<LoadOutcome> outcomes_;
  std::vector<size_t> order_;  // requests by start time
  size_t next_ = 0, done_ = 0, running_ = 0;
  std::vector<std::unique_ptr<Connection>> connections_, closed_;
  Clock::time_point begin_;
};

}  // namespace

ServerAddress ServerAddress::parse(const std::string& flag, const std::string& url) {
  const auto wrong = [&](const char* why) -> InvalidArgument {
    return {flag, "'" + url + "' " + why + "; give http://HOST[:PORT][/PREFIX]"};
  };
  if (url.starts_with("https://")) throw wrong("asks for TLS, which this client does not speak");
  if (!url.starts_with("http://")) throw wrong("is no http URL");
  std::string rest = url.substr(7);
  ServerAddress address;
  address.port = "80";
  if (const size_t slash = rest.find('/'); slash != std::string::npos) {
    address.prefix = rest.substr(slash);
    rest.resize(slash);
    while (address.prefix.ends_with('/')) address.prefix.pop_back();
  }
  const size_t bracket = rest.starts_with('[') ? rest.find(']') : 0;  // [::1]:8000
  if (bracket == std::string::npos) throw wrong("has no closing bracket");
  if (const size_t colon = rest.find(':', bracket); colon != std::string::npos) {
    address.port = rest.substr(colon + 1);
    rest.resize(colon);
  }
  address.host = bracket ? rest.substr(1, bracket - 1) : rest;
  const auto bad = [](char c) { return c <= ' ' || c == 127; };
  if (address.host.empty() || address.port.empty() || std::ranges::any_of(url, bad))
    throw wrong("has no host or port");
  return address;
}

std::string ServerAddress::text() const {
  const bool v6 = host.find(':') != std::string::npos;
  return "http://" + (v6 ? "[" + host + "]" : host) + ":" + port + prefix;
}

std::vector<LoadOutcome> run_load(const LoadOptions& options,
                                  const std::vector<LoadRequest>& requests) {
  return Run(options, requests).run();
}

}  // namespace nanovllm::client
