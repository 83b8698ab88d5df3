#include "server/http_message.h"

#include <algorithm>
#include <ctime>

namespace nanovllm::http {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char l = lower(c);
  return l >= 'a' && l <= 'f' ? l - 'a' + 10 : -1;
}

bool is_control(char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7f; }

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  const size_t n = std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return {text, n};
}

}  // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

const std::string* Request::header(std::string_view name) const {
  for (const auto& [key, value] : headers)
    if (equal_ignoring_case(key, name)) return &value;
  return nullptr;
}

size_t Request::count(std::string_view name) const {
  return static_cast<size_t>(std::ranges::count_if(
      headers, [&](const auto& field) { return equal_ignoring_case(field.first, name); }));
}

size_t head_end(std::string_view bytes) {
  const size_t at = bytes.find("\r\n\r\n");
  return at == std::string_view::npos ? at : at + 4;
}

std::optional<Defect> check_head(std::string_view head) {
  bool request_line = true;
  while (!head.empty()) {
    const size_t end = head.find("\r\n");
    if (end == std::string_view::npos) return Defect{400, "a line does not end in CRLF"};
    const std::string_view line = head.substr(0, end);
    head.remove_prefix(end + 2);
    if (line.empty()) {
      if (!head.empty() || request_line) return Defect{400, "an empty line in the header"};
      return std::nullopt;
    }
    if (std::ranges::any_of(line, is_control))
      return Defect{400, "a control character in the header"};
    if (line[0] == ' ' || line[0] == '\t')
      return Defect{400, "a header line is continued by a leading space"};
    if (!request_line) {
      const size_t colon = line.find(':');
      if (colon == std::string_view::npos || colon == 0)
        return Defect{400, "a header line has no name"};
      if (line.substr(0, colon).find_first_of(" \t") != std::string_view::npos)
        return Defect{400, "a space in a header's name"};
    }
    request_line = false;
  }
  return Defect{400, "the header does not end"};
}

std::optional<Defect> check_framing(const Request& request) {
  const size_t hosts = request.count("Host");
  if (hosts > 1 || (hosts == 0 && request.version == 11))
    return Defect{400, hosts ? "more than one Host header" : "the Host header is missing"};
  const size_t lengths = request.count("Content-Length"),
               encodings = request.count("Transfer-Encoding");
  if (lengths > 1) return Defect{400, "more than one Content-Length header"};
  if (encodings > 1) return Defect{400, "more than one Transfer-Encoding header"};
  if (lengths && encodings) return Defect{400, "both Content-Length and Transfer-Encoding"};
  if (lengths) {
    const std::string& value = *request.header("Content-Length");
    if (value.empty() || value.size() > 18 ||
        value.find_first_not_of("0123456789") != std::string::npos)
      return Defect{400, "Content-Length is not a number"};
  }
  if (encodings) {
    if (request.version == 10) return Defect{400, "Transfer-Encoding in an HTTP/1.0 request"};
    if (!equal_ignoring_case(*request.header("Transfer-Encoding"), "chunked"))
      return Defect{501, "Transfer-Encoding other than chunked"};
  }
  return std::nullopt;
}

std::optional<Defect> split_target(std::string_view target, Request* request) {
  if (target.empty()) return Defect{400, "the request target is empty"};
  if (target == "*") {
    request->path = "*";
    return std::nullopt;
  }
  if (target[0] != '/') {  // the absolute form, as for a proxy
    size_t begin = 0;
    for (const std::string_view scheme : {"http://", "https://"})
      if (equal_ignoring_case(target.substr(0, scheme.size()), scheme)) begin = scheme.size();
    if (begin == 0) return Defect{400, "the request target is neither a path nor a URL"};
    const size_t slash = target.find_first_of("/?", begin);
    target = slash == std::string_view::npos ? "/" : target.substr(slash);
  }
  if (target.find('#') != std::string_view::npos)
    return Defect{400, "a fragment in the request target"};
  const size_t question = target.find('?');
  if (question != std::string_view::npos) request->query = target.substr(question + 1);
  auto path = percent_decode(target.substr(0, question));
  if (!path) return Defect{400, "a broken percent escape in the request target"};
  request->path = path->empty() ? "/" : std::move(*path);
  return std::nullopt;
}

std::optional<std::string> percent_decode(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

std::optional<std::string> host_name(std::string_view host) {
  host = trim(host);
  std::string_view name = host, port;
  if (host.starts_with('[')) {
    const size_t end = host.find(']');
    if (end == std::string_view::npos) return std::nullopt;
    name = host.substr(1, end - 1);
    port = host.substr(end + 1);
  } else if (const size_t colon = host.find(':'); colon != std::string_view::npos) {
    name = host.substr(0, colon);
    port = host.substr(colon);
  }
  if (!port.empty() &&
      (port[0] != ':' || port.substr(1).find_first_not_of("0123456789") != std::string_view::npos))
    return std::nullopt;
  if (name.empty() || name.find_first_of("/@ \t,") != std::string_view::npos) return std::nullopt;
  std::string result(name);
  std::ranges::transform(result, result.begin(), lower);
  if (result.back() == '.') result.pop_back();
  return result;
}

bool has_token(std::string_view field, std::string_view token) {
  while (!field.empty()) {
    const size_t comma = field.find(',');
    if (equal_ignoring_case(trim(field.substr(0, comma)), token)) return true;
    if (comma == std::string_view::npos) break;
    field.remove_prefix(comma + 1);
  }
  return false;
}

std::string_view reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 304:
      return "Not Modified";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Content Too Large";
    case 415:
      return "Unsupported Media Type";
    case 417:
      return "Expectation Failed";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 505:
      return "HTTP Version Not Supported";
    default:
      return "Status";
  }
}

std::string response_head(int status, const Headers& headers, BodyEnd end, size_t length,
                          bool keep_alive, int version) {
  // Always HTTP/1.1 (RFC 9110, 6.2), but a 1.0 client is told if the connection stays.
  std::string head = "HTTP/1.1 " + std::to_string(status) + " ";
  head += reason_phrase(status);
  head += "\r\nDate: " + date_now() + "\r\n";
  for (const auto& [name, value] : headers) {
    head += name + ": ";
    // A value never ends its line, wherever it came from.
    for (const char c : value) head += is_control(c) ? ' ' : c;
    head += "\r\n";
  }
  if (end == BodyEnd::kChunked) head += "Transfer-Encoding: chunked\r\n";
  if (end == BodyEnd::kLength && status != 204 && status != 304)
    head += "Content-Length: " + std::to_string(length) + "\r\n";
  if (!keep_alive)
    head += "Connection: close\r\n";
  else if (version == 10)
    head += "Connection: keep-alive\r\n";
  return head + "\r\n";
}

}  // namespace nanovllm::http
