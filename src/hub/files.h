// Small things with files that fetching needs: folders, locks, hashes, names that can be trusted.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "hub/hub.h"

namespace nanovllm {

// A name inside a repository that cannot lead out of its folder: relative, no empty, "." or ".."
// parts, no backslash or control bytes.
bool is_safe_relative_path(std::string_view name);

// Like `mkdir -p`. Throws Error(path, reason).
void make_folders(const std::string& path);
// Bytes of a regular file; nullopt if there is none.
std::optional<int64_t> file_size(const std::string& path);
// Throws Error if the file system of `folder` has less than `bytes` free.
void check_free_space(const std::string& folder, int64_t bytes);

// Lower-case hex. Throws Error(path, reason) if the file cannot be read, Cancelled if progress says
// so.
std::string sha256_of_file(const std::string& path, const ProgressCallback& progress = nullptr);
// The id git gives the file's content: SHA-1 of "blob SIZE\0" and the bytes.
std::string git_blob_sha1_of_file(const std::string& path,
                                  const ProgressCallback& progress = nullptr);

// An exclusive lock on a file (created if absent), held for the object's life; the system drops it
// if the process dies. Waits for another holder, telling `progress` so.
class FileLock {
 public:
  FileLock(const std::string& path, const ProgressCallback& progress);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace nanovllm
