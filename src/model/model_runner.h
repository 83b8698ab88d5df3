// ModelRunner: owns the backend, the weights and the KV cache, and turns a Batch into logits. The
// engine sees only this.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "model/transformer.h"
#include "nanovllm/config.h"
#include "nanovllm/llm.h"

namespace nanovllm {

class ModelRunner {
 public:
  // Loads the weights and allocates everything. config must be resolved by plan() first.
  ModelRunner(Checkpoint& checkpoint, const EngineConfig& config, const MemoryPlan& plan);

  // One forward pass. False: *give_up (may be null) was set, and the pass ended before its last
  // layer.
  bool run(const Batch& batch, const std::atomic<bool>* give_up = nullptr);
  // Logits of some tokens of the last batch, by their indices: [rows, vocab_size] in the backend's
  // memory, valid until the next call. At most max_logits_rows(), which bounds the buffer.
  float* compute_logits(std::span<const int32_t> rows);
  // The same for the host, to read and change.
  std::span<float> logits(std::span<const int32_t> rows);
  int64_t max_logits_rows() const { return backend_->max_logits_rows(); }

  Backend& backend() { return *backend_; }
  const Backend& backend() const { return *backend_; }
  int64_t weight_bytes() const { return transformer_->weight_bytes(); }
  int64_t num_parameters() const { return transformer_->num_parameters(); }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Transformer> transformer_;
  float* logits_ = nullptr;  // [max_logits_rows, vocab_size]
  int64_t vocab_size_;
};

// Fills in what the flags leave to the model (max_model_len, threads) and works out where the
// memory goes. Throws InvalidArgument naming the flag if they do not fit together. Reads no tensor
// data.
MemoryPlan plan_memory(Checkpoint& checkpoint, EngineConfig* config);

WeightType weight_type(const EngineConfig& config);
KVType kv_type(const EngineConfig& config);

}  // namespace nanovllm
