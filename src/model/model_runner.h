// ModelRunner: owns the backend, one rank's weights and KV cache, and turns a Batch into logits.
// The engine sees only this, on rank 0; the other ranks serve(): what rank 0's run() sends them is
// run there too, and logits() of the same rows follow.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "model/shard.h"
#include "model/transformer.h"
#include "nanovllm/config.h"
#include "nanovllm/llm.h"
#include "parallel/communicator.h"

namespace nanovllm {

class ModelRunner {
 public:
  // Loads this rank's weights and allocates everything. config must be resolved by plan_memory()
  // first, with the same backend; ranks, as many as config says, outlive this. Without them the
  // engine is one rank.
  ModelRunner(std::unique_ptr<Backend> backend, Checkpoint& checkpoint, const EngineConfig& config,
              const MemoryPlan& plan, Communicator& ranks);
  ModelRunner(std::unique_ptr<Backend> backend, Checkpoint& checkpoint, const EngineConfig& config,
              const MemoryPlan& plan);
  ~ModelRunner();  // rank 0's ends the others' serve()

  // One forward pass, on all ranks. False: *give_up (may be null) was set, and the pass ended
  // before its last layer.
  bool run(const Batch& batch, const std::atomic<bool>* give_up = nullptr);
  // Logits of some tokens of the last batch, by their indices: [rows, vocab_size] in the backend's
  // memory, valid until the next call. At most max_logits_rows(), which bounds the buffer. Several
  // ranks compute those that the batch asks for, max_logits_rows() at a time and in its order;
  // other rows are then refused.
  float* compute_logits(std::span<const int32_t> rows);
  // The same for the host, to read and change.
  std::span<float> logits(std::span<const int32_t> rows);
  int64_t max_logits_rows() const { return backend_->max_logits_rows(); }
  // Ranks above 0: takes part in rank 0's steps until there are no more.
  void serve();

  Backend& backend() { return *backend_; }
  const Backend& backend() const { return *backend_; }
  int64_t weight_bytes() const { return transformer_->weight_bytes(); }
  Communicator& ranks() const { return *ranks_; }

 private:
  bool forward(const Batch& batch, const std::atomic<bool>* give_up);
  std::span<const int32_t> next_rows() const;  // that all ranks compute together
  void finish_logits();

  SingleRank single_;
  std::unique_ptr<Backend> backend_;
  Communicator* ranks_;
  std::vector<Shard> shards_;
  std::unique_ptr<Transformer> transformer_;
  int64_t vocab_size_;
  std::vector<int64_t> vocab_sizes_;  // of the shards
  float* logits_ = nullptr;           // [max_logits_rows, vocab_size]; null above rank 0
  float* logits_part_ = nullptr;  // [max_logits_rows, this rank's]; logits_ where there is one rank
  // Logits rows of the last batch of several ranks, and how many of them have been computed.
  std::vector<int32_t> rows_;
  size_t next_row_ = 0;
  std::vector<std::byte> message_;
};

}  // namespace nanovllm
