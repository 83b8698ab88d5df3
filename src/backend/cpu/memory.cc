#include "backend/cpu/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

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
  if (huge_pages) ask_for_huge_pages(0, bytes);
}

void Memory::ask_for_huge_pages(int64_t offset, int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE), start = (offset + page - 1) / page * page;
  const int64_t end = std::min(size_, offset + bytes);
  if (start < end) madvise(data_ + start, static_cast<size_t>(end - start), MADV_HUGEPAGE);
}

Memory::~Memory() {
  if (data_) munmap(data_, static_cast<size_t>(size_));
}

}  // namespace nanovllm
