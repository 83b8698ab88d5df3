// ThreadRanks: the ranks of one process, a thread each. Their communicators read each other's
// memory, between meetings of all ranks; rank r sums slice r of everybody's buffer, in place, and
// the others copy it from there.
//
//   rank 0  [ sum | .   ]      meet; each sums its slice of all buffers; meet; each copies the
//   rank 1  [ .   | sum ]      others' slices; meet, for now the buffers may change again
//
// Outlives the threads that use it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace nanovllm {

class ThreadRanks {
 public:
  // threads_each: of every rank, so that ranks which outnumber the processors do not spin.
  ThreadRanks(int size, int64_t threads_each);
  ~ThreadRanks();

  Communicator& rank(int r);

 private:
  struct Meeting;
  class ThreadCommunicator;
  std::unique_ptr<Meeting> meeting_;
  std::vector<std::unique_ptr<ThreadCommunicator>> communicators_;
};

}  // namespace nanovllm
