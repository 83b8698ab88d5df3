// Ranks: those beside this one that an engine of several ranks needs, from their start to their
// end. Owned by the LLM and made before anything else of it, since the others open the model at the
// same time; destroyed after its ModelRunner.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "nanovllm/config.h"
#include "parallel/communicator.h"
#include "parallel/thread_ranks.h"

namespace nanovllm {

class Ranks {
 public:
  // Starts tensor_parallel_size - 1 threads of this process, which do run_worker(config).
  explicit Ranks(const EngineConfig& config);
  ~Ranks();  // waits for them
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  Communicator& communicator() { return *communicator_; }  // of rank 0

 private:
  SingleRank single_;
  std::unique_ptr<ThreadRanks> thread_ranks_;
  Communicator* communicator_ = &single_;
  std::vector<std::jthread> threads_;
};

}  // namespace nanovllm
