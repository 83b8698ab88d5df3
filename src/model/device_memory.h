// How much of a device's memory the KV cache may take, and what to change if it is too little.
#pragma once

#include <cstdint>

#include "nanovllm/config.h"
#include "nanovllm/llm.h"

namespace nanovllm {

// plan: all but the KV cache. What kv_cache_memory_bytes says, or what gpu_memory_utilization of
// the free bytes leaves. Throws InvalidArgument that names the flag to change, and by how many
// bytes the engine does not fit, if that is less than `least` bytes or more than there are.
int64_t device_kv_budget(const EngineConfig& config, const MemoryPlan& plan, int64_t least);

}  // namespace nanovllm
