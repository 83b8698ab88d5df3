#include "hub/http_client.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <memory>

#include "hub/files.h"

namespace nanovllm {
namespace {

constexpr long kConnectTimeoutSeconds = 20;
constexpr long kStallSeconds = 30;  // with no byte at all, the connection counts as lost
constexpr long kMaxRedirects = 10;
constexpr size_t kMaxErrorText = 2000;
constexpr size_t kMaxHeaders = 400;

// libcurl wants one call before the first handle, and none at the same time.
void init_curl() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (code != CURLE_OK) throw Error("libcurl", curl_easy_strerror(code));
}

// The state of one transfer, as the callbacks see it.
struct Transfer {
  CURL* easy = nullptr;
  HttpResponse response;
  size_t max_body = 0;
  bool body_too_large = false;

  // download() only
  int fd = -1;
  int64_t resume_from = 0, written = 0, max_file = 0;
  bool started = false, cancelled = false, too_large = false;
  int write_errno = 0;
  const std::function<bool(int64_t)>* on_bytes = nullptr;

  long status() const {
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    return status;
  }
};

size_t on_header(char* data, size_t, size_t size, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  const std::string line(data, size);
  const size_t colon = line.find(':');
  if (colon == std::string::npos || transfer.response.headers.size() >= kMaxHeaders) return size;
  std::string name = line.substr(0, colon);
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  const size_t begin = std::min(line.find_first_not_of(" \t", colon + 1), line.size());
  const size_t end = line.find_last_not_of(" \t\r\n");
  // Those of the last answer describe the body; those of a redirect before it name the file
  // (x-linked-etag).
  const bool describes_body = name == "content-length" || name == "content-range" || name == "etag";
  const std::string value =
      end == std::string::npos || end < begin ? "" : line.substr(begin, end - begin + 1);
  if (describes_body) {
    transfer.response.headers[name] = value;
  } else {
    transfer.response.headers.emplace(name, value);
  }
  return size;
}

size_t on_text(char* data, size_t, size_t size, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  if (transfer.response.body.size() + size > transfer.max_body) {
    transfer.body_too_large = true;
    return 0;
  }
  transfer.response.body.append(data, size);
  return size;
}

// A 206 that does not begin where the file ends would corrupt it.
bool resumes_at(const HttpResponse& response, int64_t position) {
  const auto it = response.headers.find("content-range");
  return it != response.headers.end() &&
         it->second.rfind("bytes " + std::to_string(position) + "-", 0) == 0;
}

size_t on_file_bytes(char* data, size_t, size_t size, void* user) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  const long status = transfer.status();
  if (status != 200 && status != 206) {  // the text of an error
    std::string& body = transfer.response.body;
    body.append(data, std::min(size, kMaxErrorText - std::min(kMaxErrorText, body.size())));
    return size;
  }
  if (!transfer.started) {
    transfer.started = true;
    const bool resumed = status == 206 && resumes_at(transfer.response, transfer.resume_from);
    if (status == 206 && !resumed) {
      transfer.write_errno = EPROTO;
      return 0;
    }
    if (!resumed) {
      transfer.written = 0;
      if (ftruncate(transfer.fd, 0) != 0 || lseek(transfer.fd, 0, SEEK_SET) < 0) {
        transfer.write_errno = errno;
        return 0;
      }
    }
  }
  if (transfer.written + static_cast<int64_t>(size) > transfer.max_file) {
    transfer.too_large = true;
    return 0;
  }
  for (size_t done = 0; done < size;) {
    const ssize_t n = write(transfer.fd, data + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      transfer.write_errno = errno;
      return 0;
    }
    done += static_cast<size_t>(n);
    transfer.written += n;
  }
  return size;
}

// Called about once a second even when nothing arrives, so that an interruption does not wait for
// the server.
int on_progress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  Transfer& transfer = *static_cast<Transfer*>(user);
  if (!transfer.on_bytes || !*transfer.on_bytes) return 0;
  if ((*transfer.on_bytes)(transfer.written)) return 0;
  transfer.cancelled = true;
  return 1;
}

// For messages: without a query, which may hold a signature.
std::string shown(const std::string& url) { return url.substr(0, url.find('?')); }

CURLcode perform(CURL* easy, const std::string& url, const std::string& token, Transfer* transfer,
                 std::string* message) {
  char error[CURL_ERROR_SIZE] = "";
  curl_easy_reset(easy);
  transfer->easy = easy;
  const bool secure = url.rfind("https://", 0) == 0;
  curl_easy_setopt(easy, CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy, CURLOPT_REDIR_PROTOCOLS_STR, secure ? "https" : "http,https");
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(easy, CURLOPT_MAXREDIRS, kMaxRedirects);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, kConnectTimeoutSeconds);
  curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, kStallSeconds);
  curl_easy_setopt(easy, CURLOPT_USERAGENT, "nano-vllm");
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, transfer->fd >= 0 ? on_file_bytes : on_text);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer);
  curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
  curl_easy_setopt(easy, CURLOPT_XFERINFODATA, transfer);
  if (transfer->resume_from > 0) {
    curl_easy_setopt(easy, CURLOPT_RANGE, (std::to_string(transfer->resume_from) + "-").c_str());
  }
  // As a header of our own, not as libcurl's credentials: libcurl drops it when a redirect leads to
  // another host.
  curl_slist* headers = nullptr;
  if (!token.empty())
    headers = curl_slist_append(headers, ("Authorization: Bearer " + token).c_str());
  const std::unique_ptr<curl_slist, void (*)(curl_slist*)> owner(headers, curl_slist_free_all);
  if (headers) curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);

  const CURLcode code = curl_easy_perform(easy);
  transfer->response.status = transfer->status();
  *message = *error ? error : curl_easy_strerror(code);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, nullptr);
  return code;
}

bool is_lost_connection(CURLcode code) {
  switch (code) {
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      return true;
    default:
      return false;
  }
}

std::string reason_of(CURLcode code, const std::string& message) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
      return "no connection: " + message;
    case CURLE_TOO_MANY_REDIRECTS:
      return "too many redirects";
    default:
      return message;
  }
}

}  // namespace

HttpClient::HttpClient(std::string token) : token_(std::move(token)) {
  // A line break in the token would become another header.
  for (char c : token_) {
    if (static_cast<unsigned char>(c) <= 0x20 || c == 0x7f)
      throw InvalidArgument("HF_TOKEN", "holds a blank or a control character");
  }
  init_curl();
  easy_ = curl_easy_init();
  if (!easy_) throw Error("libcurl", "no handle");
}

HttpClient::~HttpClient() { curl_easy_cleanup(easy_); }

HttpResponse HttpClient::get(const std::string& url, size_t max_bytes) {
  Transfer transfer;
  transfer.max_body = max_bytes;
  std::string message;
  const CURLcode code = perform(easy_, url, token_, &transfer, &message);
  if (transfer.body_too_large)
    throw Error(shown(url), "the answer is larger than " + std::to_string(max_bytes) + " bytes");
  if (code != CURLE_OK) throw Error(shown(url), reason_of(code, message));
  return std::move(transfer.response);
}

HttpResponse HttpClient::download(const std::string& url, const std::string& path,
                                  int64_t max_bytes, const std::function<bool(int64_t)>& on_bytes) {
  struct Descriptor {
    int fd;
    ~Descriptor() { close(fd); }
  } const file{open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644)};
  if (file.fd < 0) throw Error(path, "cannot be written: " + std::string(std::strerror(errno)));
  const off_t end = lseek(file.fd, 0, SEEK_END);
  if (end < 0) throw Error(path, std::strerror(errno));

  Transfer transfer;
  transfer.fd = file.fd;
  transfer.resume_from = transfer.written = end;
  transfer.max_file = max_bytes;
  transfer.on_bytes = &on_bytes;
  std::string message;
  const CURLcode code = perform(easy_, url, token_, &transfer, &message);
  if (transfer.cancelled) throw Cancelled(path, "interrupted; the next pull goes on from here");
  if (transfer.too_large)
    throw Error(shown(url),
                "sends more than the " + std::to_string(max_bytes) + " bytes it stated");
  if (transfer.write_errno == EPROTO)
    throw Error(shown(url), "answers a range request with another range");
  if (transfer.write_errno != 0) {
    throw Error(path,
                transfer.write_errno == ENOSPC || transfer.write_errno == EDQUOT
                    ? "no space left on the device (what has come is kept; the next pull goes on "
                      "from there)"
                    : "cannot be written: " + std::string(std::strerror(transfer.write_errno)));
  }
  if (is_lost_connection(code))
    throw ConnectionLost(shown(url), "the connection was lost: " + message);
  if (code != CURLE_OK) throw Error(shown(url), reason_of(code, message));
  // An empty body calls no callback.
  if (transfer.response.status == 200 && !transfer.started && ftruncate(file.fd, 0) != 0)
    throw Error(path, std::strerror(errno));
  if (fsync(file.fd) != 0)
    throw Error(path, "cannot be written: " + std::string(std::strerror(errno)));
  return std::move(transfer.response);
}

std::string url_escape(const std::string& text, bool keep_slashes) {
  std::string out;
  for (char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '-' || c == '.' || c == '_' || c == '~' ||
        (c == '/' && keep_slashes)) {
      out += c;
    } else {
      out += {'%', "0123456789ABCDEF"[byte >> 4], "0123456789ABCDEF"[byte & 15]};
    }
  }
  return out;
}

}  // namespace nanovllm
