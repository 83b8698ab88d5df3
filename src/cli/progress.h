// ProgressLine: one line on stderr that is redrawn on a terminal, and printed anew every few
// seconds elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace nanovllm::cli {

class ProgressLine {
 public:
  ProgressLine();
  bool due() const;                    // is it time for the next show()?
  void show(const std::string& text);  // due or not
  void clear();  // takes the line off a terminal, so that something else can be printed

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_, shown_ = false;
  Clock::time_point next_;
};

std::string progress_bar(int64_t done, int64_t total);  // "[#########-----------] 45%"
std::string format_seconds(double seconds);             // "8 s", "3:07", "2:10:00"

}  // namespace nanovllm::cli
