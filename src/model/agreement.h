// What all ranks must have in common, and how they find out that they have not: each says what it
// read, and all come to the same verdict.
#pragma once

#include <functional>
#include <string>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "nanovllm/config.h"
#include "nanovllm/llm.h"
#include "parallel/communicator.h"

namespace nanovllm {

// A line for each thing that may differ: flags as plan_memory() resolved them, the configuration,
// each tensor with its type, shape and a hash of bytes from four places.
std::string fingerprint(const Checkpoint& checkpoint, const EngineConfig& config,
                        const MemoryPlan& plan);

// Runs `prepare`, which gives a fingerprint or any other text, on all ranks. If it throws an Error
// somewhere, all ranks throw one: where it happened that very one, elsewhere one that names the
// rank. If the texts differ in a line, all throw Error naming the rank and the line's first word.
void agree(Communicator& ranks, const std::function<std::string()>& prepare);

// What is free on the fullest of the ranks' devices, within `prepare`; INT64_MAX where none has
// memory of its own. Throws Error naming the rank where another one's `prepare` has thrown before
// it came to this.
int64_t least_free_bytes(Communicator& ranks, const DeviceMemory& memory);

}  // namespace nanovllm
