// AccessLog: one line of JSON for each HTTP response: who asked for what, how it ended, what it
// cost. Never a prompt, an answer or a key. Everything a client chose is escaped by the JSON writer
// and cut, so a line is always one line.
//
// Any thread. A line is written with one write(2) to a file opened for appending, so lines of
// several processes do not mix, and logrotate's copytruncate works.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>

#include "server/metrics.h"

namespace nanovllm {

struct AccessEntry {
  std::string key, remote, method, path;
  int status = 0;
  uint64_t bytes = 0;
  bool complete = true;              // false: the client left before the end
  double seconds = 0;                // from the request's header to the response's last byte
  const CallRecord* call = nullptr;  // if the engine had to do with it
};

class AccessLog {
 public:
  // path: "-" is stderr. Throws InvalidArgument if it cannot be opened.
  explicit AccessLog(const std::string& path);
  ~AccessLog();
  AccessLog(const AccessLog&) = delete;
  AccessLog& operator=(const AccessLog&) = delete;

  void write(const AccessEntry& entry);
  static std::string line(const AccessEntry& entry, double unix_time);  // ends with a newline

 private:
  std::mutex mutex_;
  int file_ = -1;
};

}  // namespace nanovllm
