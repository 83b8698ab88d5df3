#include "server/access_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>

#include "nanovllm/error.h"
#include "server/openai_json.h"

namespace nanovllm {
namespace {

// "2024-05-21T08:15:30.123Z"
std::string utc(double unix_time) {
  const auto milliseconds = static_cast<int64_t>(unix_time * 1000);
  const time_t seconds = milliseconds / 1000;
  struct tm parts {};
  gmtime_r(&seconds, &parts);
  char text[64];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof text - length, ".%03dZ",
                static_cast<int>(milliseconds % 1000));
  return text;
}

double rounded(double seconds) { return std::round(seconds * 1e6) / 1e6; }

}  // namespace

AccessLog::AccessLog(const std::string& path) {
  file_ = path == "-" ? dup(STDERR_FILENO)
                      : open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
  if (file_ < 0)
    throw InvalidArgument("--access-log", "cannot open '" + path + "': " + std::strerror(errno));
}

AccessLog::~AccessLog() { close(file_); }

void AccessLog::write(const AccessEntry& entry) {
  const std::string text = line(
      entry,
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count());
  const std::lock_guard lock(mutex_);
  // A full disk costs lines, not requests.
  [[maybe_unused]] const ssize_t written = ::write(file_, text.data(), text.size());
}

std::string AccessLog::line(const AccessEntry& entry, double unix_time) {
  openai::Json json = {{"time", utc(unix_time)},
                       {"remote", entry.remote},
                       {"key", entry.key.empty() ? openai::Json() : openai::Json(entry.key)},
                       {"method", entry.method.substr(0, 32)},
                       {"path", entry.path.substr(0, 256)},
                       {"status", entry.status},
                       {"bytes", entry.bytes},
                       {"complete", entry.complete},
                       {"seconds", rounded(entry.seconds)}};
  if (const CallRecord* call = entry.call; call && call->entered >= 0) {
    json["queue_seconds"] = rounded(call->entered - call->arrived);
    json["prompt_tokens"] = call->prompt_tokens;
    json["cached_tokens"] = call->cached_tokens;
    json["output_tokens"] = call->output_tokens;
    if (call->first_token >= 0) json["ttft_seconds"] = rounded(call->first_token - call->arrived);
    openai::Json reasons = openai::Json::array();
    for (const FinishReason reason : call->finish_reasons) reasons.push_back(to_string(reason));
    json["finish_reasons"] = std::move(reasons);
  }
  // ASCII only: no terminal that shows the log can be told to do things.
  return json.dump(-1, ' ', true, openai::Json::error_handler_t::replace) + "\n";
}

}  // namespace nanovllm
