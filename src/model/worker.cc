#include "model/worker.h"

#include <algorithm>
#include <exception>
#include <memory>

#include "backend/cpu/processors.h"
#include "model/agreement.h"
#include "model/model_runner.h"

namespace nanovllm {

int64_t threads_of_rank(int64_t threads, int64_t ranks_here) {
  if (threads == 0) threads = available_processors().default_threads();
  return std::max<int64_t>(1, threads / ranks_here);
}

void run_worker(EngineConfig config, Communicator& ranks) {
  try {
    std::unique_ptr<Checkpoint> checkpoint;
    MemoryPlan plan;
    agree(ranks, [&] {
      config.threads = threads_of_rank(config.threads, ranks.ranks_here());
      checkpoint = Checkpoint::open(config.model);
      plan = plan_memory(*checkpoint, &config);
      return fingerprint(*checkpoint, config, plan);
    });
    std::unique_ptr<ModelRunner> runner;
    agree(ranks, [&] {
      runner = std::make_unique<ModelRunner>(*checkpoint, config, plan, ranks);
      return std::string();
    });
    checkpoint.reset();
    runner->serve();
  } catch (const std::exception& e) {
    ranks.fail(e.what());
    throw;
  }
}

}  // namespace nanovllm
