#include "backend/cuda/penalty_counts.h"

#include <algorithm>

#include "backend/cuda/check.h"

namespace nanovllm::cuda {

PenaltyCounts::PenaltyCounts(int64_t num_slots, int64_t vocab)
    : vocab_(vocab), counts_(num_slots * vocab * 4), slots_(static_cast<size_t>(num_slots)) {
  for (size_t i = 0; i < slots_.size(); ++i)
    slots_[i].counts = counts_.as<uint32_t>() + static_cast<int64_t>(i) * vocab;
}

PenaltyCounts::Slot* PenaltyCounts::find(uint64_t sequence, int64_t history, const Stream& stream) {
  const auto known = std::ranges::find_if(
      slots_, [&](const Slot& s) { return s.last_use > 0 && s.sequence == sequence; });
  if (known != slots_.end() && known->counted <= history) {
    known->last_use = launch_;
    return &*known;
  }
  Slot& oldest =
      known != slots_.end() ? *known : *std::ranges::min_element(slots_, {}, &Slot::last_use);
  if (oldest.last_use == launch_) return nullptr;
  check(cudaMemsetAsync(oldest.counts, 0, static_cast<size_t>(vocab_) * 4, stream.get()),
        "cudaMemsetAsync");
  oldest.sequence = sequence;
  oldest.counted = 0;
  oldest.last_use = launch_;
  return &oldest;
}

}  // namespace nanovllm::cuda
