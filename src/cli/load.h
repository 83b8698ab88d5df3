// Loading a model for a command, and the figures printed about it on stderr.
#pragma once

#include <cstdint>
#include <string>

#include "nanovllm/llm.h"

namespace nanovllm::cli {

// Checks the flags, resolves the model's name, loads it, and unless quiet says on stderr what it is
// and what memory it takes.
LLM load_model(EngineConfig config, bool quiet);

// What a command does in a rank above 0 that mpirun has started, instead of all it does on rank 0.
// Signals are rank 0's to answer. Returns the exit code.
int run_worker_rank(EngineConfig config);

// The path of a model; fetches a short name that is not on this machine yet, with a progress bar.
std::string locate_model(const std::string& name);

// Sampling defaults of `generate` and `chat`: the model's own, then those of the built-in list.
GenerationDefaults dialog_defaults(const std::string& model_name, const LLM& llm);

std::string format_bytes(int64_t bytes);       // "98.3 MiB"
std::string describe(const ModelInfo& info);   // "name: llama, 134.5 M parameters in Q4_1, ..."
std::string describe(const MemoryPlan& plan);  // "weights 92.1 MiB, KV cache 45.0 MiB (2048
                                               // tokens), activations 8.1 MiB"
// "drafts: 37 of 185 tokens, 120 of them accepted (64.9 %), mean acceptance length 4.24"; "" if
// nothing was drafted. The mean counts the token that comes without a guess, as vLLM's does.
std::string describe_drafts(const EngineStats& stats);

int64_t peak_memory_bytes();   // of this process so far
double seconds_since_start();  // of this process

}  // namespace nanovllm::cli
