// PenaltyCounts: how often each token has come in the sequences that have penalties, kept on the
// device from one step to the next, so that what travels is what is new. There is room for a fixed
// number of sequences; when a further one comes, the one that was away longest has to be counted
// from its beginning when it comes again.
//
// Belongs to one sampler and its thread.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/cuda/memory.h"

namespace nanovllm::cuda {

class PenaltyCounts {
 public:
  PenaltyCounts(int64_t num_slots, int64_t vocab);

  struct Slot {
    uint64_t sequence = 0;
    int64_t counted = 0;   // tokens of its history
    int64_t last_use = 0;  // 0: never; of the launches
    uint32_t* counts = nullptr;
  };
  // The sequence's counts. New ones are zeroed in the stream's order. Null: all are of rows of this
  // launch already.
  Slot* find(uint64_t sequence, int64_t history, const Stream& stream);
  void next_launch() { ++launch_; }

 private:
  const int64_t vocab_;
  DeviceBuffer counts_;  // [slots, vocab]
  std::vector<Slot> slots_;
  int64_t launch_ = 1;
};

}  // namespace nanovllm::cuda
