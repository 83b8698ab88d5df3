// Rank 0's model runner with no engine around it, opened as the other ranks open theirs.
#pragma once

#include <memory>

#include "model/agreement.h"
#include "model/memory_plan.h"
#include "model/model_runner.h"

namespace nanovllm {

struct RankZero {
  std::unique_ptr<Checkpoint> checkpoint;
  MemoryPlan plan;
  std::unique_ptr<ModelRunner> runner;

  // On the CPU with so many threads; config is resolved.
  RankZero(EngineConfig& config, Communicator& ranks, int threads) {
    auto backend = make_cpu_backend(threads);
    agree(ranks, [&] {
      checkpoint = Checkpoint::open(config.model);
      plan = plan_memory(*checkpoint, *backend, &config,
                         least_free_bytes(ranks, backend->device_memory()));
      return fingerprint(*checkpoint, config, plan);
    });
    agree(ranks, [&] {
      runner = std::make_unique<ModelRunner>(std::move(backend), *checkpoint, config, plan, ranks);
      return std::string();
    });
  }
};

}  // namespace nanovllm
