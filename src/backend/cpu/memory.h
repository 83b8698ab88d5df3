// Memory: one anonymous map, zeroed, aligned to pages, touched only when used; pages of a KV cache
// that no request has reached cost nothing. RAII, movable. Throws Error if the system refuses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace nanovllm {

class Memory {
 public:
  Memory() = default;
  // what: named in the error. huge_pages: ask for them (weights, which are read from end to end).
  Memory(int64_t bytes, const std::string& what, bool huge_pages);
  ~Memory();
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }

  // Asks for huge pages in `bytes` bytes from `offset` on. A hint; the system may refuse.
  void ask_for_huge_pages(int64_t offset, int64_t bytes);

  std::byte* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  void swap(Memory& other) {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace nanovllm
