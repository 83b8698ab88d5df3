#include "model/worker.h"

#include <algorithm>
#include <exception>
#include <memory>

#include "backend/cpu/processors.h"
#include "backend/make_backend.h"
#include "model/agreement.h"
#include "model/memory_plan.h"
#include "model/model_runner.h"

namespace nanovllm {

namespace {

// Which of its host's ranks this is: the GPU that it takes.
int rank_here(const Communicator& ranks) {
  int before = 0;
  for (int r = 0; r < ranks.rank(); ++r) before += ranks.host(r) == ranks.host(ranks.rank());
  return before;
}

}  // namespace

int64_t threads_of_rank(int64_t threads, int64_t ranks_here) {
  if (threads == 0) threads = available_processors().default_threads();
  return std::max<int64_t>(1, threads / ranks_here);
}

void run_worker(EngineConfig config, Communicator& ranks) {
  try {
    BackendChoice choice;
    std::unique_ptr<Checkpoint> checkpoint;
    MemoryPlan plan;
    agree(ranks, [&] {
      config.threads = threads_of_rank(config.threads, ranks.ranks_here());
      choice = make_backend(config, rank_here(ranks));
      config.device = choice.device;
      checkpoint = Checkpoint::open(config.model);
      plan = plan_memory(*checkpoint, *choice.backend, &config,
                         least_free_bytes(ranks, choice.backend->device_memory()));
      return fingerprint(*checkpoint, config, plan);
    });
    std::unique_ptr<ModelRunner> runner;
    agree(ranks, [&] {
      runner = std::make_unique<ModelRunner>(std::move(choice.backend), *checkpoint, config, plan,
                                             ranks);
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
