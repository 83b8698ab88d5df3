#include "hub/process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "nanovllm/error.h"

extern char** environ;

namespace nanovllm {
namespace {

constexpr size_t kMaxErrors = 64 << 10;

// What posix_spawn is told, freed with the object.
struct SpawnSettings {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  SpawnSettings() {
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
  }
};

struct Pipe {
  int ends[2] = {-1, -1};
  Pipe() {
    if (pipe2(ends, O_CLOEXEC) != 0) throw Error("pipe", std::strerror(errno));
  }
  ~Pipe() {
    close_write();
    close(ends[0]);
  }
  void close_write() {
    if (ends[1] >= 0) close(ends[1]);
    ends[1] = -1;
  }
};

int wait_for(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& argv,
                          const std::vector<std::string>& variables,
                          const std::function<bool()>& keep_going) {
  Pipe errors;
  SpawnSettings settings;
  posix_spawn_file_actions_addopen(&settings.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&settings.files, STDERR_FILENO, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&settings.files, errors.ends[1], STDERR_FILENO);
  sigset_t defaults;  // this process may ignore SIGPIPE; its child should not
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigdefault(&settings.attributes, &defaults);
  posix_spawnattr_setflags(&settings.attributes, POSIX_SPAWN_SETSIGDEF);

  std::vector<char*> words;
  for (const std::string& word : argv) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  std::vector<char*> environment;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view name(*entry, strcspn(*entry, "=") + 1);  // with its "="
    const bool replaced = std::any_of(variables.begin(), variables.end(),
                                      [&](const std::string& v) { return v.starts_with(name); });
    if (!replaced) environment.push_back(*entry);
  }
  for (const std::string& variable : variables)
    environment.push_back(const_cast<char*>(variable.c_str()));
  environment.push_back(nullptr);
  ProcessResult result;
  pid_t pid = 0;
  const int code = posix_spawnp(&pid, words[0], &settings.files, &settings.attributes, words.data(),
                                environment.data());
  errors.close_write();
  if (code == ENOENT) {
    result.not_found = true;
    return result;
  }
  if (code != 0) throw Error(argv[0], "cannot be started: " + std::string(std::strerror(code)));

  // Until its stderr is closed, which is when it (and what it started) has ended.
  char buffer[4096];
  while (true) {
    if (!keep_going()) {
      kill(pid, SIGTERM);
      result.stopped = true;
      break;
    }
    pollfd ready{errors.ends[0], POLLIN, 0};
    if (poll(&ready, 1, 100) <= 0) continue;
    const ssize_t n = read(errors.ends[0], buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    result.errors.append(buffer, static_cast<size_t>(n));
    if (result.errors.size() > kMaxErrors)
      result.errors.erase(0, result.errors.size() - kMaxErrors);
  }
  result.exit_code = wait_for(pid);
  return result;
}

}  // namespace nanovllm
