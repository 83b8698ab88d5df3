#include "model/model_runner.h"

#include <algorithm>

#include "backend/cpu/processors.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

KVCacheShape kv_shape(const ModelConfig& model, const EngineConfig& config, int64_t num_blocks) {
  return {model.num_layers,   num_blocks,     config.block_size,
          model.num_kv_heads, model.head_dim, kv_type(config)};
}

constexpr int64_t kDefaultKVBytes = int64_t{1} << 30;

}  // namespace

WeightType weight_type(const EngineConfig& config) {
  if (config.quantization == "int8") return WeightType::kInt8;
  if (config.quantization == "int4") return WeightType::kInt4;
  if (config.dtype == "float32") return WeightType::kFloat32;
  if (config.dtype == "bfloat16") return WeightType::kBFloat16;
  return WeightType::kAsStored;
}

KVType kv_type(const EngineConfig& config) {
  if (config.kv_cache_dtype == "float32") return KVType::kFloat32;
  if (config.kv_cache_dtype == "int8") return KVType::kInt8;
  return KVType::kBFloat16;
}

MemoryPlan plan_memory(Checkpoint& checkpoint, EngineConfig* config) {
  config->validate();
  if (config->device == "cuda")
    throw InvalidArgument("--device",
                          "is cuda, but this build has no CUDA backend; allowed are auto and cpu");
  if (config->tensor_parallel_size != 1)
    throw InvalidArgument(
        "--tensor-parallel-size",
        "is " + std::to_string(config->tensor_parallel_size) + "; this build supports 1");
  if (config->threads == 0) config->threads = available_processors().default_threads();
  const ModelConfig& model = checkpoint.config();
  const int64_t limit = model.max_position_embeddings, block_size = config->block_size;
  if (config->max_model_len > limit)
    throw InvalidArgument("--max-model-len", "is " + std::to_string(config->max_model_len) +
                                                 ", but the model allows at most " +
                                                 std::to_string(limit));
  const auto backend = make_cpu_backend(1);
  auto blocks_for = [&](int64_t tokens) { return (tokens + block_size - 1) / block_size; };
  const int64_t block_bytes = backend->kv_cache_bytes(kv_shape(model, *config, 1));

  MemoryPlan plan;
  const int64_t longest = config->max_model_len ? config->max_model_len : limit;
  const int64_t useful_blocks = blocks_for(longest) * config->max_num_seqs;
  const int64_t budget =
      config->kv_cache_memory_bytes
          ? config->kv_cache_memory_bytes
          : std::max(kDefaultKVBytes,
                     config->max_model_len ? blocks_for(longest) * block_bytes : 0);
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
  plan.kv_cache_bytes = backend->kv_cache_bytes(kv_shape(model, *config, plan.num_kv_blocks));
  plan.weights_bytes =
      Transformer::planned_weight_bytes(checkpoint, *backend, weight_type(*config));
  plan.activation_bytes = static_cast<int64_t>(sizeof(float)) *
                          (Transformer::planned_activation_floats(
                               model, config->max_num_batched_tokens, config->max_model_len) +
                           backend->max_logits_rows() * model.vocab_size);
  return plan;
}

ModelRunner::ModelRunner(Checkpoint& checkpoint, const EngineConfig& config, const MemoryPlan& plan)
    : backend_(make_cpu_backend(static_cast<int>(config.threads))),
      vocab_size_(checkpoint.config().vocab_size) {
  transformer_ = std::make_unique<Transformer>(checkpoint, *backend_, weight_type(config),
                                               config.max_num_batched_tokens, config.max_model_len);
  backend_->allocate_kv_cache(kv_shape(checkpoint.config(), config, plan.num_kv_blocks));
  logits_ = backend_->allocate(max_logits_rows() * vocab_size_);
}

bool ModelRunner::run(const Batch& batch, const std::atomic<bool>* give_up) {
  auto forward = [&](const Batch& b) { return transformer_->forward(b, give_up); };
  return backend_->run(batch, std::ref(forward));
}

float* ModelRunner::compute_logits(std::span<const int32_t> rows) {
  transformer_->compute_logits(rows, logits_);
  return logits_;
}

std::span<float> ModelRunner::logits(std::span<const int32_t> rows) {
  return backend_->to_host(compute_logits(rows), std::ssize(rows) * vocab_size_);
}

}  // namespace nanovllm
