// plan_memory: what an engine is going to hold, worked out from the headers of a checkpoint before
// anything is allocated.
#pragma once

#include <optional>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "model/shard.h"
#include "nanovllm/config.h"
#include "nanovllm/llm.h"

namespace nanovllm {

// Fills in what the flags leave to the model and the device (max_model_len, max_num_seqs,
// max_num_batched_tokens) and works out where the memory goes: of rank 0, whose shard is the
// largest. Throws InvalidArgument naming the flag if they do not fit together, or into the device's
// memory. Reads no tensor data. All ranks make the same plan where they give the same free_bytes,
// of a device; without, it is asked.
MemoryPlan plan_memory(Checkpoint& checkpoint, const Backend& backend, EngineConfig* config,
                       std::optional<int64_t> free_bytes = {});

// What the plan and who allocates by it must agree on.
WeightType weight_type(const EngineConfig& config);
KVType kv_type(const EngineConfig& config);
KVCacheShape kv_shape(const ModelConfig& model, const Shard& shard, const EngineConfig& config,
                      int64_t num_blocks);
StepLimits step_limits(const ModelConfig& model, const EngineConfig& config, int64_t max_model_len);

}  // namespace nanovllm
