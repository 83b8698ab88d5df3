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
constexpr int kLookEveryMs = 100;

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

// Whether a process waits for something, by /proc/PID/stat: its third field, after a name in
// parentheses.
bool sleeps(pid_t process) {
  char text[512] = "";
  if (FILE* file = std::fopen(("/proc/" + std::to_string(process) + "/stat").c_str(), "r")) {
    text[std::fread(text, 1, sizeof text - 1, file)] = 0;
    std::fclose(file);
  }
  const char* name_end = std::strrchr(text, ')');
  return name_end && std::strncmp(name_end, ") S", 3) == 0;
}

// The child, killed at the latest when this goes, and the end of the pipe that its answer is read
// from.
struct Child {
  pid_t pid;
  int answer;

  Child(const std::function<void()>& action, const RehearsalLimits& limits) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) throw Error("pipe", std::strerror(errno));
    const size_t mapped = mapped_bytes();
    pid = fork();
    if (pid == 0) act(action, limits, mapped, ends[1]);
    const int fork_error = errno;
    answer = ends[0];
    close(ends[1]);
    if (pid < 0) {
      close(answer);
      throw Error("fork", std::strerror(fork_error));
    }
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    close(answer);
    kill(pid, SIGKILL);
    while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
};

enum class End { kAnswered, kLate, kStuck };

// Reads what the child answers until it is done, or out of time, or waits: it has nothing to wait
// for but a lock that another thread of its parent held at the fork, and nobody will open that.
End wait_for(const Child& child, double deadline_seconds, const RehearsalLimits& limits,
             std::string& answer) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double cpu_before = -1;
  while (true) {
    const double elapsed = std::chrono::duration<double>(Clock::now() - start).count();
    const double cpu = cpu_seconds(child.pid);
    if (elapsed >= deadline_seconds || cpu >= limits.seconds) return End::kLate;
    pollfd ready{child.answer, POLLIN, 0};
    const int n = poll(&ready, 1, kLookEveryMs);
    if (n < 0 && errno == EINTR) continue;
    if (n == 0) {
      if (sleeps(child.pid) && cpu_seconds(child.pid) == cpu_before) return End::kStuck;
      cpu_before = cpu;
      continue;
    }
    char buffer[2048];
    const ssize_t got = read(child.answer, buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return End::kAnswered;
    answer.append(buffer, static_cast<size_t>(got));
  }
}

}  // namespace

std::string rehearse(const std::function<void()>& action, const RehearsalLimits& limits) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  while (true) {
    const double left =
        kBusyMachine * limits.seconds - std::chrono::duration<double>(Clock::now() - start).count();
    std::string answer;
    const Child child(action, limits);
    switch (wait_for(child, left, limits, answer)) {
      case End::kStuck:
        continue;
      case End::kLate:
        return "takes longer than " + shown_seconds(limits.seconds);
      case End::kAnswered:
        if (answer.empty()) return "takes too much memory";  // or the stack: it died
        return answer[0] == kDone ? "" : answer;
    }
  }
}

}  // namespace nanovllm
