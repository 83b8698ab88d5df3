// OpenModel: a model's files opened, its flags resolved and its memory planned, but no weight read
// yet: what LLM loads from and `inspect` describes.
#pragma once

#include <memory>

#include "model/checkpoint.h"
#include "model/memory_plan.h"
#include "model/model_runner.h"
#include "nanovllm/llm.h"
#include "tokenizer/tokenizer.h"

namespace nanovllm {

struct OpenModel {
  EngineConfig config;  // resolved
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer> tokenizer;  // null: token ids only
  ModelConfig model;                     // with the tokenizer's EOS added
  GenerationDefaults generation_defaults;
  MemoryPlan plan;
  ModelInfo info;
};

// config.threads counts all ranks_here ranks that share this machine, and becomes what is one's.
// The ranks, who do the same at the same time, plan for the fullest of their devices.
OpenModel open_model(const EngineConfig& config, int64_t ranks_here, Communicator& ranks);

}  // namespace nanovllm
