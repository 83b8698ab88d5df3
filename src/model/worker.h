// A rank above 0: what it does from its start to its end. It has no scheduler, no tokenizer and no
// requests; it holds its shard and computes what rank 0 sends.
#pragma once

#include "nanovllm/config.h"
#include "parallel/communicator.h"

namespace nanovllm {

// Opens config.model as rank 0's LLM does at the same time, and serves its steps until it ends.
// Throws Error if this rank or another cannot go on; the others know by then.
void run_worker(EngineConfig config, Communicator& ranks);

// Threads of one rank where ranks_here of them share the machine and --threads, which counts them
// together (0: as many as there are cores), is `threads`.
int64_t threads_of_rank(int64_t threads, int64_t ranks_here);

}  // namespace nanovllm
