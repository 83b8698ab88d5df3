#include "formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::string errno_reason(int code) {
  switch (code) {
    case ENOENT:
      return "no such file";
    case EACCES:
      return "permission denied";
    case EISDIR:
      return "is a folder, not a file";
    default:
      return std::strerror(code);
  }
}

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  // A name with a NUL byte would silently open another file.
  if (path.find('\0') != std::string::npos) throw Error("file name", "contains a NUL byte");
  // O_NONBLOCK: opening a named pipe would otherwise wait for its writer.
  FileDescriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.fd < 0) throw Error(path, errno_reason(errno));
  struct stat info;
  if (fstat(file.fd, &info) != 0) throw Error(path, errno_reason(errno));
  if (S_ISDIR(info.st_mode)) throw Error(path, "is a folder, not a file");
  if (!S_ISREG(info.st_mode)) throw Error(path, "is not a regular file");
  if (info.st_size == 0) throw Error(path, "is empty (0 bytes)");
  const size_t size = static_cast<size_t>(info.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (memory == MAP_FAILED) throw Error(path, "cannot be mapped: " + errno_reason(errno));
  bytes_ = {static_cast<const std::byte*>(memory), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

void MappedFile::release(std::span<const std::byte> range) const {
  if (range.empty()) return;
  // Whole pages; one shared with a neighbour is only read again, the mapping stays valid.
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(range.data()) / page * page;
  const uintptr_t end = reinterpret_cast<uintptr_t>(range.data()) + range.size();
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace nanovllm
