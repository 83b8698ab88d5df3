#include "hub/hub.h"

#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "hub/repository.h"
#include "hub/short_names.h"

namespace nanovllm {
namespace {

bool exists(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) == 0) return true;
  if (errno == ENOENT || errno == ENOTDIR || errno == ENAMETOOLONG) return false;
  throw Error(path, errno == EACCES ? "permission denied" : std::strerror(errno));
}

// Written as a path, so that advice about names would only distract.
bool looks_like_path(const std::string& name) {
  return name.find_first_of("./~") == 0 || name.ends_with(".gguf") || name.ends_with('/');
}

}  // namespace

std::string cache_folder() {
  if (const char* folder = std::getenv("NANO_VLLM_CACHE"); folder && *folder) return folder;
  const char* home = std::getenv("HOME");
  if (!home || !*home) {
    const passwd* user = getpwuid(getuid());
    if (!user) throw Error("NANO_VLLM_CACHE", "must be set, because this user has no home folder");
    home = user->pw_dir;
  }
  return std::string(home) + "/.cache/nano-vllm";
}

std::string resolve_model(const std::string& name, const ProgressCallback& progress) {
  if (name.empty()) throw InvalidArgument("MODEL", "is empty");
  if (name.find('\0') != std::string::npos) throw InvalidArgument("MODEL", "contains a NUL byte");
  if (exists(name)) return name;
  if (const ShortName* model = find_short_name(name)) {
    if (!is_cached(*model)) fetch_short_name(*model, progress);
    return short_name_path(*model);
  }
  if (looks_like_path(name)) throw Error(name, "no such file or folder");
  const auto repository = parse_repository_name(name);
  if (repository) {
    if (const auto path = find_pulled(*repository)) return *path;
  }
  std::string reason = "no such file or folder, and no short name (" + short_names() + ")";
  if (repository) reason += "; if it is a hub repository, `nano-vllm pull " + name + "` fetches it";
  throw Error(name, reason);
}

PullResult pull(const std::string& name, const PullOptions& options,
                const ProgressCallback& progress) {
  if (const ShortName* model = find_short_name(name)) {
    if (!options.include.empty())
      throw InvalidArgument("--include", "does not go with a short name, which is one file");
    PullResult result{short_name_path(*model), {}, 0};
    result.files.push_back(result.path.substr(result.path.rfind('/') + 1));
    if (!is_cached(*model)) result.bytes_fetched = fetch_short_name(*model, progress);
    return result;
  }
  const auto repository = parse_repository_name(name);
  if (!repository) {
    throw InvalidArgument(
        "NAME", "'" + name + "' is neither a short name (" + short_names() +
                    ") nor a hub repository (org/name, org/name@revision, org/name:file.gguf)");
  }
  if (!repository->file.empty() && !options.include.empty())
    throw InvalidArgument("--include", "does not go with a NAME that names its file");
  return pull_repository(*repository, options, progress);
}

}  // namespace nanovllm
