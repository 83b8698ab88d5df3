#include "hub/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>
#include <vector>

namespace nanovllm {
namespace {

struct FileCloser {
  void operator()(FILE* f) const { fclose(f); }
};

std::string digest_of_file(const std::string& path, const EVP_MD* algorithm, bool git_prefix,
                           const ProgressCallback& progress) {
  const std::unique_ptr<FILE, FileCloser> file(fopen(path.c_str(), "rbe"));
  if (!file) throw Error(path, std::strerror(errno));
  TransferProgress state{"checking " + path.substr(path.rfind('/') + 1), 0,
                         file_size(path).value_or(0)};
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  if (!context || EVP_DigestInit_ex(context.get(), algorithm, nullptr) != 1)
    throw Error(path, "OpenSSL offers no such hash");
  if (git_prefix) {
    const std::string prefix = "blob " + std::to_string(state.total);
    EVP_DigestUpdate(context.get(), prefix.c_str(), prefix.size() + 1);  // with its NUL
  }
  std::vector<unsigned char> buffer(1 << 20);
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), file.get())) {
    EVP_DigestUpdate(context.get(), buffer.data(), n);
    state.done += static_cast<int64_t>(n);
    if (progress && !progress(state)) throw Cancelled(path, "interrupted");
  }
  if (ferror(file.get())) throw Error(path, "cannot be read: " + std::string(std::strerror(errno)));
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context.get(), digest, &length);
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

}  // namespace

bool is_safe_relative_path(std::string_view name) {
  if (name.empty() || name.size() > 1024) return false;
  for (char c : name) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\') return false;
  }
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    begin = end + 1;
  }
  return true;
}

void make_folders(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) throw Error(path, "cannot be created: " + error.message());
}

std::optional<int64_t> file_size(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return std::nullopt;
  return info.st_size;
}

void check_free_space(const std::string& folder, int64_t bytes) {
  struct statvfs info;
  if (statvfs(folder.c_str(), &info) != 0) return;  // then the write itself will tell
  const uint64_t free_bytes = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (bytes > 0 && free_bytes < static_cast<uint64_t>(bytes)) {
    throw Error(folder, "not enough space: " + std::to_string(bytes >> 20) + " MiB are needed, " +
                            std::to_string(free_bytes >> 20) +
                            " MiB are free (NANO_VLLM_CACHE chooses another folder)");
  }
}

std::string sha256_of_file(const std::string& path, const ProgressCallback& progress) {
  return digest_of_file(path, EVP_sha256(), false, progress);
}

std::string git_blob_sha1_of_file(const std::string& path, const ProgressCallback& progress) {
  return digest_of_file(path, EVP_sha1(), true, progress);
}

FileLock::FileLock(const std::string& path, const ProgressCallback& progress)
    : fd_(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
  if (fd_ < 0) throw Error(path, "cannot be created: " + std::string(std::strerror(errno)));
  while (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int code = errno;
    const bool stop = code == EWOULDBLOCK && progress &&
                      !progress({"waiting for another process that fetches the same model", 0, 0});
    if (stop || (code != EWOULDBLOCK && code != EINTR)) {
      close(fd_);
      if (stop) throw Cancelled(path, "interrupted");
      throw Error(path, "cannot be locked: " + std::string(std::strerror(code)));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

FileLock::~FileLock() { close(fd_); }

}  // namespace nanovllm
