// Transformer: the decoder of Llama, Mistral, Qwen2 and Qwen3: token ids in, hidden states and
// logits out. Their differences are data (ModelConfig); the forward pass is a straight line of
// backend calls, one for each operation, over the whole batch.
//
// It may hold one rank's shard only. Its partial sums then become whole in three places of the
// forward pass, by all_reduce: behind the embedding, behind attention, behind the MLP.
//
// Owned by the ModelRunner; one thread. All memory is taken in the constructor: forward() allocates
// nothing.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "backend/backend.h"
#include "model/checkpoint.h"
#include "model/model_config.h"
#include "model/shard.h"
#include "parallel/communicator.h"

namespace nanovllm {

class Transformer {
 public:
  // max_tokens: tokens a batch may have; max_positions: longest sequence. Packs every weight of the
  // shard. backend and ranks outlive this.
  Transformer(Checkpoint& checkpoint, Backend& backend, Communicator& ranks, const Shard& shard,
              WeightType type, int64_t max_tokens, int64_t max_positions);

  // Runs the batch through all layers, writing its keys and values to the cache. False: *give_up
  // (may be null, then on all ranks) was seen set between two layers. Several ranks do as rank 0's
  // says, and give up no batch that is short.
  bool forward(const Batch& batch, const std::atomic<bool>* give_up = nullptr);
  // logits[r, :] = the output head's for token rows[r] of the last forward pass, of this rank's
  // part of the vocabulary.  logits [rows, shard.vocab]
  void compute_logits(std::span<const int32_t> rows, float* logits);

  int64_t weight_bytes() const { return weight_bytes_; }

  // What the constructor would take, for the memory plan; reads no tensor data.
  static int64_t planned_weight_bytes(Checkpoint& checkpoint, const Backend& backend,
                                      const Shard& shard, WeightType type);
  static int64_t planned_activation_floats(const ModelConfig& config, const Shard& shard,
                                           int64_t max_tokens, int64_t max_positions);

 private:
  struct Layer {
    std::unique_ptr<Weight> qkv_proj, o_proj, gate_up_proj, down_proj;
    float *input_norm, *post_attention_norm;     // [hidden]
    float *q_norm = nullptr, *k_norm = nullptr;  // [head_dim]
    float *qkv_bias = nullptr, *o_bias = nullptr, *gate_up_bias = nullptr, *down_bias = nullptr;
  };
  // Of each of these vectors a part.
  struct VectorPart {
    std::string name;
    int64_t size;
    Range range;
  };
  float* load_vector(Checkpoint& checkpoint, const std::vector<VectorPart>& parts);
  bool gives_up(int64_t tokens, const std::atomic<bool>* give_up);

  const ModelConfig config_;
  Backend& backend_;
  Communicator& ranks_;
  const Shard shard_;
  std::unique_ptr<Weight> embed_tokens_, lm_head_;  // lm_head_ is null when tied
  std::vector<Layer> layers_;
  float *norm_, *rope_table_;
  float *residual_, *hidden_, *qkv_, *attention_, *gate_up_,
      *activated_;  // activations, [max_tokens, ...]
  int64_t weight_bytes_ = 0;
};

}  // namespace nanovllm
