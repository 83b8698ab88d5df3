#include "structured/rehearsal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

constexpr char kDone = '\0';  // the child's answer, or the reason why not
constexpr size_t kLongestReason = 1000;
// The limit is one of processor time, for it is not the schema's fault that a machine is busy, but
// nobody waits longer than so many times the limit.
constexpr double kBusyMachine = 3;

std::string shown_seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%g s", seconds);
  return text;
}

// The address space in use, by /proc/self/statm.
size_t mapped_bytes() {
  unsigned long pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return pages * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

void limit(int resource, rlim_t value) {
  const rlimit both{value, value};
  setrlimit(static_cast<__rlimit_resource_t>(resource), &both);
}

// In the child: never returns, and runs nothing at exit. The parent's descriptors are closed, so
// that a client's connection does not stay open here.
[[noreturn]] void act(const std::function<void()>& action, const RehearsalLimits& limits,
                      size_t mapped, int out) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGABRT, SIGSEGV, SIGHUP}) ::signal(signal, SIG_DFL);
  dup2(out, STDIN_FILENO);  // a number that is known
  closefrom(STDERR_FILENO + 1);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_CPU, static_cast<rlim_t>(limits.seconds) + 2);  // in case the parent is gone
  if (mapped > 0) limit(RLIMIT_AS, mapped + limits.bytes);
  std::string answer(1, kDone);
  try {
    action();
  } catch (const std::bad_alloc&) {
    answer = "takes too much memory";
  } catch (const std::exception& e) {
    answer = std::string(e.what()).substr(0, kLongestReason);
    if (answer.empty()) answer = "is not accepted";
  } catch (...) {
    answer = "is not accepted";
  }
  size_t sent = 0;
  while (sent < answer.size()) {
    const ssize_t n = write(STDIN_FILENO, answer.data() + sent, answer.size() - sent);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  _exit(0);
}

// Seconds of the processor that a process has had.
double cpu_seconds(pid_t process) {
  clockid_t clock;
  timespec time;
  if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &time) != 0) return 0;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

std::string rehearse(const std::function<void()>& action, const RehearsalLimits& limits) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw Error("pipe", std::strerror(errno));
  const size_t mapped = mapped_bytes();
  const pid_t child = fork();
  if (child == 0) act(action, limits, mapped, ends[1]);
  const int fork_error = errno;
  close(ends[1]);
  if (child < 0) {
    close(ends[0]);
    throw Error("fork", std::strerror(fork_error));
  }

  const auto start = std::chrono::steady_clock::now();
  std::string answer;
  bool late = false;
  while (true) {
    const double elapsed =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    late = elapsed >= kBusyMachine * limits.seconds ||
           (elapsed >= limits.seconds && cpu_seconds(child) >= limits.seconds);
    if (late) break;
    pollfd ready{ends[0], POLLIN, 0};
    const int n = poll(&ready, 1, std::max(20, static_cast<int>((limits.seconds - elapsed) * 1e3)));
    if (n == 0 || (n < 0 && errno == EINTR)) continue;
    char buffer[2048];
    const ssize_t got = read(ends[0], buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    answer.append(buffer, static_cast<size_t>(got));
  }
  close(ends[0]);
  kill(child, SIGKILL);
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  if (late) return "takes longer than " + shown_seconds(limits.seconds);
  if (answer.empty()) return "takes too much memory";  // or the stack: it died
  return answer[0] == kDone ? "" : answer;
}

}  // namespace nanovllm
