// stdin, stdout, files and signals for the commands.
#include <fcntl.h>
#include <semaphore.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "cli/cli.h"

namespace nanovllm::cli {
namespace {

std::string read_all(int fd, const std::string& name, size_t max_bytes) {
  std::string data;
  char buffer[1 << 16];
  while (true) {
    const ssize_t n = ::read(fd, buffer, sizeof buffer);
    if (n == 0) return data;
    if (n < 0 && errno == EINTR && !Interrupt::signal()) continue;
    if (n < 0) throw Error(name, std::strerror(errno));
    if (data.size() + static_cast<size_t>(n) > max_bytes)
      throw Error(name, "is larger than " + std::to_string(max_bytes) + " bytes");
    data.append(buffer, static_cast<size_t>(n));
  }
}

std::atomic<int> interrupt_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "set from a signal handler");

sem_t something_happened;  // posted from a signal handler, which a condition variable may not be

void on_signal(int number) {
  if (interrupt_signal.exchange(number) != 0) _exit(128 + number);
  sem_post(&something_happened);
}

struct sigaction old_int, old_term;

}  // namespace

void write_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EPIPE) throw BrokenPipe{};
    if (n < 0) throw Error("standard output", std::strerror(errno));
    text.remove_prefix(static_cast<size_t>(n));
  }
}

std::string read_stdin(size_t max_bytes) {
  return read_all(STDIN_FILENO, "standard input", max_bytes);
}

std::string read_text_file(const std::string& path, size_t max_bytes) {
  if (path == "-") return read_stdin(max_bytes);
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error(path, std::strerror(errno));
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};
  return read_all(fd, path, max_bytes);
}

void write_text_file(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) throw Error(path, std::strerror(errno));
  const ssize_t n = ::write(fd, text.data(), text.size());
  const int error = n < 0 ? errno : ENOSPC;
  const bool closed = ::close(fd) == 0;
  if (n != static_cast<ssize_t>(text.size()) || !closed) throw Error(path, std::strerror(error));
}

Interrupt::Interrupt() {
  interrupt_signal = 0;
  sem_init(&something_happened, 0, 0);
  struct sigaction action {};
  action.sa_handler =
      on_signal;  // no SA_RESTART: a blocked read returns, so that a prompt can be left
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &old_int);
  sigaction(SIGTERM, &action, &old_term);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGTERM, &old_term, nullptr);
}

int Interrupt::signal() { return interrupt_signal; }
void Interrupt::clear() { interrupt_signal = 0; }
void Interrupt::wake() { sem_post(&something_happened); }

bool Interrupt::wait(double seconds) {
  struct timespec until {};
  clock_gettime(CLOCK_REALTIME, &until);
  const auto whole = static_cast<time_t>(seconds);
  until.tv_sec += whole;
  until.tv_nsec += static_cast<long>((seconds - static_cast<double>(whole)) * 1e9);
  if (until.tv_nsec >= 1'000'000'000) ++until.tv_sec, until.tv_nsec -= 1'000'000'000;
  int result = 0;
  do result = sem_timedwait(&something_happened, &until);
  while (result != 0 && errno == EINTR && !signal());
  return result == 0 || errno != ETIMEDOUT;
}

}  // namespace nanovllm::cli
