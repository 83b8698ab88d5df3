#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace nanovllm::cli {
namespace {
constexpr auto kRedraw = std::chrono::milliseconds(100), kReprint = std::chrono::milliseconds(5000);
}

ProgressLine::ProgressLine()
    : terminal_(isatty(STDERR_FILENO)), next_(Clock::now() + (terminal_ ? kRedraw : kReprint)) {}

bool ProgressLine::due() const { return Clock::now() >= next_; }

void ProgressLine::show(const std::string& text) {
  if (terminal_) {
    fmt::print(stderr, "\r{}\x1b[K", text);
    fflush(stderr);
  } else {
    fmt::print(stderr, "{}\n", text);
  }
  shown_ = true;
  next_ = Clock::now() + (terminal_ ? kRedraw : kReprint);
}

void ProgressLine::clear() {
  if (terminal_ && shown_) fmt::print(stderr, "\r\x1b[K");
  shown_ = false;
}

std::string progress_bar(int64_t done, int64_t total) {
  constexpr int kWidth = 20;
  const double share =
      total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
  const int full = static_cast<int>(share * kWidth);
  return fmt::format("[{}{}] {:3.0f}%", std::string(full, '#'), std::string(kWidth - full, '-'),
                     share * 100);
}

std::string format_seconds(double seconds) {
  const auto s = static_cast<int64_t>(std::clamp(seconds, 0.0, 1e9));
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

}  // namespace nanovllm::cli
