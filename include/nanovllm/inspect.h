// What a model is and where the memory would go, without loading the weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nanovllm/config.h"
#include "nanovllm/llm.h"

namespace nanovllm {

struct TensorInfo {
  std::string name, dtype;  // as in the file: "blk.0.attn_q.weight", "Q4_1"
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

struct ModelInspection {
  ModelInfo info;
  MemoryPlan plan;
  std::vector<TensorInfo> tensors;
  int64_t file_bytes = 0;  // of all tensors
  std::string tokenizer;   // "49152 tokens", or "none"
};

// Throws Error or InvalidArgument exactly where loading the model would, as far as headers show it.
ModelInspection inspect_model(const EngineConfig& config);

}  // namespace nanovllm
