#include "server/http_exchange.h"

#include <charconv>
#include <utility>

namespace nanovllm::http {

Exchange::Exchange(Terms terms, std::function<void()> notify)
    : terms_(terms), notify_(std::move(notify)), keep_alive_(terms.keep_alive) {}

void Exchange::notify(std::unique_lock<std::mutex>& lock) {
  if (std::exchange(notified_, true) || gone_) return;
  lock.unlock();
  notify_();
}

void Exchange::add_header(std::string name, std::string value) {
  const std::lock_guard lock(mutex_);
  headers_.emplace_back(std::move(name), std::move(value));
}

void Exchange::send(int status, const Headers& headers, std::string body) {
  std::unique_lock lock(mutex_);
  if (started_ || gone_) return;
  headers_.insert(headers_.end(), headers.begin(), headers.end());
  started_ = finished_ = true;
  outcome_.status = status;
  outcome_.bytes = body.size();
  out_ =
      response_head(status, headers_, BodyEnd::kLength, body.size(), keep_alive_, terms_.version);
  if (!terms_.head_request) out_ += body;
  unsent_ = out_.size();
  notify(lock);
}

void Exchange::start_stream(int status, const Headers& headers) {
  std::unique_lock lock(mutex_);
  if (started_ || gone_) return;
  headers_.insert(headers_.end(), headers.begin(), headers.end());
  started_ = true;
  chunked_ = terms_.version == 11;
  if (!chunked_) keep_alive_ = false;
  outcome_.status = status;
  out_ = response_head(status, headers_, chunked_ ? BodyEnd::kChunked : BodyEnd::kClose, 0,
                       keep_alive_, terms_.version);
  unsent_ = out_.size();
  notify(lock);
}

bool Exchange::write(std::string_view bytes) {
  std::unique_lock lock(mutex_);
  if (!started_ || finished_ || dropped_ || gone_) return false;
  if (bytes.empty() || terms_.head_request) return true;
  if (unsent_ > terms_.unsent_limit) {
    dropped_ = true;
    notify(lock);
    return false;
  }
  const size_t before = out_.size();
  if (chunked_) {
    char size[20];
    const auto end = std::to_chars(size, size + sizeof size, bytes.size(), 16).ptr;
    out_.append(size, end).append("\r\n").append(bytes).append("\r\n");
  } else {
    out_.append(bytes);
  }
  outcome_.bytes += bytes.size();
  unsent_ += out_.size() - before;
  notify(lock);
  return true;
}

void Exchange::finish(bool whole) {
  std::unique_lock lock(mutex_);
  if (!started_ || finished_ || gone_) return;
  finished_ = true;
  if (!whole) keep_alive_ = false;
  if (whole && chunked_ && !terms_.head_request) {
    out_ += "0\r\n\r\n";
    unsent_ += 5;
  }
  notify(lock);
}

void Exchange::abandon() {
  if (!started())
    send(500, {{"Content-Type", "text/plain; charset=utf-8"}}, "the request was dropped\n");
  finish(false);
}

bool Exchange::started() const {
  const std::lock_guard lock(mutex_);
  return started_;
}

bool Exchange::gone() const {
  const std::lock_guard lock(mutex_);
  return gone_;
}

size_t Exchange::unsent() const {
  const std::lock_guard lock(mutex_);
  return unsent_;
}

void Exchange::on_disconnect(std::function<void()> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (done_ && !gone_) return;
    if (!gone_) {
      on_disconnect_ = std::move(callback);
      return;
    }
  }
  callback();
}

void Exchange::on_done(std::function<void(const Outcome&)> callback) {
  {
    const std::lock_guard lock(mutex_);
    if (!done_) {
      on_done_ = std::move(callback);
      return;
    }
  }
  callback(outcome_);
}

Exchange::Progress Exchange::take(std::string* bytes) {
  const std::lock_guard lock(mutex_);
  notified_ = false;
  bytes->clear();
  if (dropped_) return Progress::kDropped;
  bytes->swap(out_);
  return finished_ ? Progress::kFinished : Progress::kMore;
}

void Exchange::sent(size_t bytes) {
  const std::lock_guard lock(mutex_);
  unsent_ -= bytes;
}

bool Exchange::finished() const {
  const std::lock_guard lock(mutex_);
  return finished_;
}

bool Exchange::keep_alive() const {
  const std::lock_guard lock(mutex_);
  return keep_alive_;
}

void Exchange::close_after() {
  const std::lock_guard lock(mutex_);
  keep_alive_ = false;
}

void Exchange::complete() {
  std::function<void()> unused;
  std::function<void(const Outcome&)> done;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(done_, true)) return;
    outcome_.complete = true;
    unused = std::exchange(on_disconnect_, nullptr);
    done = std::exchange(on_done_, nullptr);
  }
  if (done) done(outcome_);
}

void Exchange::disconnect() {
  std::function<void()> disconnected;
  std::function<void(const Outcome&)> done;
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(done_, true)) return;
    gone_ = true;
    std::string().swap(out_);
    disconnected = std::exchange(on_disconnect_, nullptr);
    done = std::exchange(on_done_, nullptr);
  }
  if (disconnected) disconnected();
  if (done) done(outcome_);
}

Responder::~Responder() { exchange_->abandon(); }
void Responder::add_header(std::string name, std::string value) {
  exchange_->add_header(std::move(name), std::move(value));
}
void Responder::send(int status, const Headers& headers, std::string body) {
  exchange_->send(status, headers, std::move(body));
}
void Responder::start_stream(int status, const Headers& headers) {
  exchange_->start_stream(status, headers);
}
bool Responder::write(std::string_view bytes) { return exchange_->write(bytes); }
void Responder::finish() { exchange_->finish(); }
void Responder::cut() { exchange_->finish(false); }
bool Responder::started() const { return exchange_->started(); }
bool Responder::gone() const { return exchange_->gone(); }
size_t Responder::unsent() const { return exchange_->unsent(); }
void Responder::on_disconnect(std::function<void()> callback) {
  exchange_->on_disconnect(std::move(callback));
}
void Responder::on_done(std::function<void(const Outcome&)> callback) {
  exchange_->on_done(std::move(callback));
}

}  // namespace nanovllm::http
