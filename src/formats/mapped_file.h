// MappedFile: a read-only memory map of a whole file. RAII; movable. Throws Error(path, reason).
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace nanovllm {

class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }
  // The pages of this range will not be needed again soon (madvise); keeps peak memory near the
  // packed weights.
  void release(std::span<const std::byte> range) const;

 private:
  std::string path_;
  std::span<const std::byte> bytes_;
};

}  // namespace nanovllm
