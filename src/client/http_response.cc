#include "client/http_response.h"

#include <algorithm>
#include <charconv>

namespace nanovllm::client {
namespace {

constexpr size_t kMaxHeadBytes = 64 << 10;  // status line, headers and trailers together
constexpr size_t kMaxChunkLine = 4 << 10;

[[noreturn]] void fail(const char* reason) { throw Error("response", reason); }

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool same_word(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// All of the text as a number; false if it is none or too large.
bool parse_number(std::string_view text, int base, uint64_t* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value, base);
  return error == std::errc() && end == text.data() + text.size() && !text.empty() &&
         text.front() != '-';
}

// Does a comma-separated header hold the word?
bool has_word(std::string_view list, std::string_view word) {
  while (true) {
    const size_t comma = list.find(',');
    if (same_word(trim(list.substr(0, comma)), word)) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

size_t HttpResponseParser::feed(std::string_view bytes, std::string* body) {
  size_t taken = 0;
  if (!bytes.empty()) started_ = true;
  while (taken < bytes.size() && state_ != State::kDone) {
    const std::string_view rest = bytes.substr(taken);
    if (state_ == State::kEndlessBody) {
      body->append(rest);
      return bytes.size();
    }
    if (state_ == State::kLengthBody || state_ == State::kChunkData) {
      const size_t n = static_cast<size_t>(std::min<uint64_t>(remaining_, rest.size()));
      body->append(rest.substr(0, n));
      remaining_ -= n;
      taken += n;
      if (remaining_ == 0) state_ = state_ == State::kLengthBody ? State::kDone : State::kChunkEnd;
      continue;
    }
    const size_t newline = rest.find('\n');
    const size_t n = newline == std::string_view::npos ? rest.size() : newline;
    const size_t limit = state_ == State::kChunkSize || state_ == State::kChunkEnd
                             ? kMaxChunkLine
                             : kMaxHeadBytes - head_bytes_;
    if (line_.size() + n > limit) fail("has a line or a head that is too long");
    line_.append(rest.substr(0, n));
    if (newline == std::string_view::npos) return bytes.size();
    taken += n + 1;
    if (!line_.empty() && line_.back() == '\r') line_.pop_back();
    if (state_ != State::kChunkSize && state_ != State::kChunkEnd) head_bytes_ += line_.size();
    const std::string line = std::move(line_);
    line_.clear();
    on_line(line);
  }
  return taken;
}

void HttpResponseParser::close() {
  if (state_ == State::kEndlessBody) state_ = State::kDone;
  if (state_ != State::kDone)
    fail(started_ ? "ends in the middle" : "did not come: the server closed the connection");
}

void HttpResponseParser::on_line(std::string_view line) {
  switch (state_) {
    case State::kStatusLine:
      return on_status_line(line);
    case State::kHeader:
      return line.empty() ? on_headers_end() : on_header(line);
    case State::kChunkSize:
      return on_chunk_size(line);
    case State::kChunkEnd:
      if (!line.empty()) fail("has a chunk longer than it says");
      state_ = State::kChunkSize;
      return;
    case State::kTrailer:
      if (line.empty()) state_ = State::kDone;
      return;
    default:
      return;
  }
}

// HTTP/1.1 200 OK
void HttpResponseParser::on_status_line(std::string_view line) {
  uint64_t code = 0;
  if (!line.starts_with("HTTP/1.") || line.size() < 12 || line[8] != ' ' ||
      !parse_number(line.substr(9, 3), 10, &code) || code < 100 ||
      (line.size() > 12 && line[12] != ' '))
    fail("does not begin with an HTTP/1 status line");
  keep_alive_ = line[7] != '0';
  status_ = static_cast<int>(code);
  state_ = State::kHeader;
}

void HttpResponseParser::on_header(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) fail("has a header without a name");
  const std::string_view name = line.substr(0, colon), value = trim(line.substr(colon + 1));
  if (same_word(name, "content-length")) {
    uint64_t length = 0;
    if (!parse_number(value, 10, &length)) fail("has a Content-Length that is no number");
    if (has_length_ && length != remaining_) fail("has two lengths");
    has_length_ = true;
    remaining_ = length;
  } else if (same_word(name, "transfer-encoding")) {
    if (!same_word(value, "chunked")) fail("has a Transfer-Encoding other than chunked");
    chunked_ = true;
  } else if (same_word(name, "connection")) {
    if (has_word(value, "close")) keep_alive_ = false;
    if (has_word(value, "keep-alive")) keep_alive_ = true;
  } else if (same_word(name, "content-type")) {
    event_stream_ = same_word(trim(value.substr(0, value.find(';'))), "text/event-stream");
  }
}

void HttpResponseParser::on_headers_end() {
  if (status_ < 200) {  // 100 Continue and the like come before the response
    const size_t bytes = head_bytes_;
    *this = HttpResponseParser();
    started_ = true;
    head_bytes_ = bytes;
  } else if (status_ == 204 || status_ == 304) {
    state_ = State::kDone;
  } else if (chunked_) {
    state_ = State::kChunkSize;
  } else if (has_length_) {
    state_ = remaining_ > 0 ? State::kLengthBody : State::kDone;
  } else {
    keep_alive_ = false;
    state_ = State::kEndlessBody;
  }
}

// 1a2b;extension
void HttpResponseParser::on_chunk_size(std::string_view line) {
  if (!parse_number(trim(line.substr(0, line.find(';'))), 16, &remaining_))
    fail("has a chunk whose size is no number");
  state_ = remaining_ > 0 ? State::kChunkData : State::kTrailer;
}

}  // namespace nanovllm::client
