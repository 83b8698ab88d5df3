#include "server/http_server.h"

#include <sys/socket.h>

#include <atomic>
#include <thread>

#include "nanovllm/error.h"
#include "server/http_connection.h"

namespace nanovllm::http {
namespace {

// How often timeouts are looked at.
constexpr std::chrono::milliseconds kSweep{250};
constexpr std::chrono::milliseconds kAcceptRetry{100};
constexpr int kSendBuffer = 256 << 10;

// A peer that vanished without a word is noticed after about a minute.
void set_socket_options(tcp::socket& socket) {
  beast::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  // By itself the kernel would keep up to 4 MB for a client that does not read.
  socket.set_option(asio::socket_base::send_buffer_size(kSendBuffer), ignored);
  const int fd = socket.native_handle();
  const auto set = [fd](int option, int value) {
    setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value);
  };
  set(TCP_KEEPIDLE, 30);
  set(TCP_KEEPINTVL, 10);
  set(TCP_KEEPCNT, 3);
}

}  // namespace

struct Server::Impl {
  Impl(ServerOptions options, Handler handler)
      : state(std::make_shared<ServerState>()), acceptor(*state->io), timer(*state->io) {
    state->options = std::move(options);
    state->handler = std::move(handler);
    if (!state->options.ssl_certfile.empty()) load_certificate();
    bind();
  }

  void load_certificate() {
    const ServerOptions& o = state->options;
    tls.emplace(asio::ssl::context::tls_server);
    tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                     asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                     asio::ssl::context::no_tlsv1_1);
    beast::error_code error;
    tls->use_certificate_chain_file(o.ssl_certfile, error);
    if (error) throw Error(o.ssl_certfile, "is no certificate in PEM: " + error.message());
    const std::string& key = o.ssl_keyfile.empty() ? o.ssl_certfile : o.ssl_keyfile;
    tls->use_private_key_file(key, asio::ssl::context::pem, error);
    if (error) throw Error(key, "is no private key in PEM: " + error.message());
    if (SSL_CTX_check_private_key(tls->native_handle()) != 1)
      throw Error(key, "is not the key of " + o.ssl_certfile);
    SSL_CTX_set_mode(tls->native_handle(), SSL_MODE_RELEASE_BUFFERS);  // 34 KB an idle connection
  }

  void bind() {
    const ServerOptions& o = state->options;
    const std::string where = o.host + ":" + std::to_string(o.port);
    beast::error_code error;
    tcp::resolver resolver(*state->io);
    const auto found =
        resolver.resolve(o.host, std::to_string(o.port), tcp::resolver::passive, error);
    if (error || found.empty()) throw Error(where, "no such address: " + error.message());
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (error) throw Error(where, "cannot listen there: " + error.message());
    address = acceptor.local_endpoint();
  }

  void accept() {
    acceptor.async_accept([this](beast::error_code error, tcp::socket socket) {
      if (!acceptor.is_open()) return;
      if (error) {  // most likely out of file descriptors: others will close
        timer_for_accept.expires_after(kAcceptRetry);
        timer_for_accept.async_wait([this](beast::error_code e) {
          if (!e && acceptor.is_open()) accept();
        });
        return;
      }
      if (state->connections.size() < state->options.limits.connections) serve(std::move(socket));
      accept();
    });
  }

  void serve(tcp::socket socket) {
    beast::error_code error;
    const auto remote = socket.remote_endpoint(error);
    if (error) return;  // gone already
    set_socket_options(socket);
    const std::string name = remote.address().to_string();
    if (tls)
      std::make_shared<Connection<asio::ssl::stream<tcp::socket>>>(
          asio::ssl::stream<tcp::socket>(std::move(socket), *tls), name, state)
          ->start();
    else
      std::make_shared<Connection<tcp::socket>>(std::move(socket), name, state)->start();
  }

  void sweep() {
    timer.expires_after(kSweep);
    timer.async_wait([this](beast::error_code error) {
      if (error) return;
      num_connections = state->connections.size();
      const auto now = Clock::now();
      for_each_connection([now](ConnectionBase& c) { c.check_deadline(now); });
      sweep();
    });
  }

  // What is done to a connection may take it out of the map.
  template <class Function>
  void for_each_connection(Function function) {
    for (auto it = state->connections.begin(); it != state->connections.end();)
      if (const auto connection = (it++)->second.lock()) function(*connection);
  }

  void run() {
    while (true) {
      try {
        state->io->run();
        return;
      } catch (const std::exception&) {  // a handler's; its connection is closed by what it dropped
      }
    }
  }

  void close_all() {
    beast::error_code ignored;
    acceptor.close(ignored);
    timer.cancel();
    timer_for_accept.cancel();
    for_each_connection([](ConnectionBase& c) { c.close(); });
  }

  std::shared_ptr<ServerState> state;
  tcp::acceptor acceptor;
  asio::steady_timer timer;
  asio::steady_timer timer_for_accept{*state->io};
  std::optional<asio::ssl::context> tls;
  tcp::endpoint address;
  std::thread thread;
  std::atomic<size_t> num_connections{0};
};

Server::Server(ServerOptions options, Handler handler)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(handler))) {}

Server::~Server() { stop(); }

uint16_t Server::port() const { return impl_->address.port(); }

std::string Server::url() const {
  const std::string& host = impl_->state->options.host;
  return std::string(impl_->tls ? "https://" : "http://") +
         (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" +
         std::to_string(port());
}

void Server::start() {
  beast::error_code error;
  impl_->acceptor.listen(SOMAXCONN, error);
  if (error) throw Error(url(), "cannot listen there: " + error.message());
  impl_->accept();
  impl_->sweep();
  impl_->thread = std::thread([this] { impl_->run(); });
}

void Server::drain(std::function<void()> drained) {
  asio::post(*impl_->state->io, [this, drained = std::move(drained)]() mutable {
    beast::error_code ignored;
    impl_->acceptor.close(ignored);
    impl_->state->draining = true;
    impl_->state->drained = std::move(drained);
    impl_->for_each_connection([](ConnectionBase& c) { c.close_if_idle(); });
    impl_->state->check_drained();
  });
}

void Server::stop() {
  if (!impl_->thread.joinable()) return;
  // With every socket closed and every timer cancelled, run() has nothing left to wait for.
  asio::post(*impl_->state->io, [this] { impl_->close_all(); });
  impl_->thread.join();
}

size_t Server::num_connections() const { return impl_->num_connections; }

}  // namespace nanovllm::http
