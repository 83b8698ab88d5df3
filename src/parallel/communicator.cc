#include "parallel/communicator.h"

#include <unistd.h>

#include <cstring>

namespace nanovllm {

void SingleRank::gather_columns(const float* part, int64_t rows, std::span<const int64_t> columns,
                                float* whole) {
  std::memmove(whole, part, static_cast<size_t>(rows * columns[0]) * sizeof(float));
}

std::string SingleRank::host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 && name[0] ? name : "this host";
}

}  // namespace nanovllm
