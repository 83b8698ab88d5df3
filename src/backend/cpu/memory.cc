#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include "nanovllm/error.h"

namespace nanovllm {

Memory::Memory(int64_t bytes, const std::string& what, bool huge_pages) {
  if (bytes == 0) return;
  void* p = bytes < 0 ? MAP_FAILED
                      : mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error(what, "cannot allocate " + std::to_string(bytes) + " bytes");
  data_ = static_cast<std::byte*>(p);
  // A fork (see rehearse) has no use for it, and copying the page tables of gigabytes takes time.
  madvise(p, static_cast<size_t>(bytes), MADV_DONTFORK);
  size_ = bytes;
  if (huge_pages)
    madvise(p, static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a hint; it may be refused
}

Memory::~Memory() {
  if (data_) munmap(data_, static_cast<size_t>(size_));
}

}  // namespace nanovllm
