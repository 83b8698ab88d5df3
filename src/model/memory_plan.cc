#include "model/memory_plan.h"

#include <algorithm>

#include "model/device_memory.h"
#include "model/transformer.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// Floats of a row of logits on rank 0: all of them, and beside them its own part.
int64_t logits_columns(const ModelConfig& model, const std::vector<Shard>& shards) {
  return model.vocab_size + (shards.size() > 1 ? shards[0].vocab.size() : 0);
}

constexpr int64_t kDefaultKVBytes = int64_t{1} << 30;

}  // namespace

WeightType weight_type(const EngineConfig& config) {
  if (config.quantization == "int8") return WeightType::kInt8;
  if (config.quantization == "int4") return WeightType::kInt4;
  if (config.quantization == "fp8") return WeightType::kFloat8;
  if (config.dtype == "float32") return WeightType::kFloat32;
  if (config.dtype == "bfloat16") return WeightType::kBFloat16;
  return WeightType::kAsStored;
}

KVType kv_type(const EngineConfig& config) {
  if (config.kv_cache_dtype == "float32") return KVType::kFloat32;
  if (config.kv_cache_dtype == "int8") return KVType::kInt8;
  return KVType::kBFloat16;
}

KVCacheShape kv_shape(const ModelConfig& model, const Shard& shard, const EngineConfig& config,
                      int64_t num_blocks) {
  return {model.num_layers,      num_blocks,     config.block_size,
          shard.kv_heads.size(), model.head_dim, kv_type(config)};
}

StepLimits step_limits(const ModelConfig& model, const EngineConfig& config,
                       int64_t max_model_len) {
  return {.max_tokens = config.max_num_batched_tokens,
          .max_seqs = std::min(config.max_num_seqs, config.max_num_batched_tokens),
          .max_blocks = (max_model_len + config.block_size - 1) / config.block_size,
          .max_position = max_model_len,
          .vocab_size = model.vocab_size};
}

MemoryPlan plan_memory(Checkpoint& checkpoint, const Backend& backend, EngineConfig* config,
                       std::optional<int64_t> free_bytes) {
  const ModelConfig& model = checkpoint.config();
  const std::vector<Shard> shards =
      make_shards(model, cut_blocks(checkpoint), config->tensor_parallel_size);
  const Shard& shard = shards[0];
  const int64_t limit = model.max_position_embeddings, block_size = config->block_size;
  if (config->max_model_len > limit)
    throw InvalidArgument("--max-model-len", "is " + std::to_string(config->max_model_len) +
                                                 ", but the model allows at most " +
                                                 std::to_string(limit));
  const bool on_gpu = config->device == "cuda";
  if (config->max_num_seqs == 0) config->max_num_seqs = on_gpu ? 256 : 64;
  if (config->max_num_batched_tokens == 0)
    config->max_num_batched_tokens = on_gpu ? 8192 : config->short_steps ? 128 : 512;
  auto blocks_for = [&](int64_t tokens) { return (tokens + block_size - 1) / block_size; };
  const int64_t block_bytes = backend.kv_cache_bytes(kv_shape(model, shard, *config, 1));
  const int64_t longest = config->max_model_len ? config->max_model_len : limit;
  const int64_t useful_blocks = blocks_for(longest) * config->max_num_seqs;

  MemoryPlan plan;
  plan.weights_bytes =
      Transformer::planned_weight_bytes(checkpoint, backend, shard, weight_type(*config));
  auto plan_steps = [&](int64_t max_model_len) {
    plan.activation_bytes = static_cast<int64_t>(sizeof(float)) *
                            (Transformer::planned_activation_floats(
                                 model, shard, config->max_num_batched_tokens, max_model_len) +
                             backend.max_logits_rows() * logits_columns(model, shards));
    plan.reserved_bytes = backend.reserved_bytes(step_limits(model, *config, max_model_len));
  };
  plan_steps(longest);
  const int64_t least = blocks_for(std::max<int64_t>(config->max_model_len, 1)) * block_bytes;
  const DeviceMemory memory = backend.device_memory();
  plan.free_bytes = memory.total_bytes ? free_bytes.value_or(memory.free_bytes) : 0;
  const int64_t budget = memory.total_bytes ? device_kv_budget(*config, plan, least)
                         : config->kv_cache_memory_bytes
                             ? config->kv_cache_memory_bytes
                             : std::max(kDefaultKVBytes, config->max_model_len ? least : 0);
  plan.num_kv_blocks =
      std::min({useful_blocks, budget / block_bytes, int64_t{INT32_MAX} / block_size});
  if (plan.num_kv_blocks < 1)
    throw InvalidArgument("--kv-cache-memory-bytes",
                          "is " + std::to_string(budget) + ", but one block of " +
                              std::to_string(block_size) + " tokens takes " +
                              std::to_string(block_bytes));
  const int64_t capacity = plan.num_kv_blocks * block_size;
  if (config->max_model_len > capacity)
    throw InvalidArgument("--max-model-len", "is " + std::to_string(config->max_model_len) +
                                                 ", but the KV cache holds " +
                                                 std::to_string(capacity) +
                                                 " tokens; raise --kv-cache-memory-bytes");
  if (config->max_model_len == 0) config->max_model_len = std::min(limit, capacity);

  plan.block_size = block_size;
  plan.max_model_len = config->max_model_len;
  plan.kv_bytes_per_token = block_bytes / block_size;
  plan.num_ranks = config->tensor_parallel_size;
  plan.kv_cache_bytes = backend.kv_cache_bytes(kv_shape(model, shard, *config, plan.num_kv_blocks));
  plan_steps(plan.max_model_len);
  return plan;
}

}  // namespace nanovllm
