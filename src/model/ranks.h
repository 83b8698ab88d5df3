// Ranks: those beside this one that an engine of several ranks needs, from their start to their
// end. Owned by the LLM and made before anything else of it, since the others open the model at the
// same time; destroyed after its ModelRunner.
//
// They are threads of this process, or, where mpirun has started it, the other processes of that,
// whose programs call work_as_rank() (nanovllm/llm.h).
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
  // config as resolve_ranks() left it. Starts tensor_parallel_size - 1 threads, which do
  // run_worker(config), or meets the processes. Throws Error if neither is possible.
  explicit Ranks(const EngineConfig& config);
  ~Ranks();  // waits for them
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  Communicator& communicator() { return *communicator_; }  // of rank 0

 private:
  SingleRank single_;
  std::unique_ptr<ThreadRanks> thread_ranks_;
  std::unique_ptr<Communicator> process_ranks_;
  Communicator* communicator_ = &single_;
  std::vector<std::jthread> threads_;
};

// tensor_parallel_size becomes the number of processes that mpirun has started, if it has. Throws
// InvalidArgument if another was asked for.
void resolve_ranks(EngineConfig* config);

}  // namespace nanovllm
