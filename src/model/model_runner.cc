#include "model/model_runner.h"

#include <algorithm>
#include <stdexcept>

#include "backend/cpu/processors.h"
#include "model/batch_message.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

KVCacheShape kv_shape(const ModelConfig& model, const Shard& shard, const EngineConfig& config,
                      int64_t num_blocks) {
  return {model.num_layers,      num_blocks,     config.block_size,
          shard.kv_heads.size(), model.head_dim, kv_type(config)};
}

// Floats of a row of logits on rank 0: all of them, and beside them its own part.
int64_t logits_columns(const ModelConfig& model, const std::vector<Shard>& shards) {
  return model.vocab_size + (shards.size() > 1 ? shards[0].vocab.size() : 0);
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
  const ModelConfig& model = checkpoint.config();
  const std::vector<Shard> shards =
      make_shards(model, cut_blocks(checkpoint), config->tensor_parallel_size);
  const Shard& shard = shards[0];
  if (config->threads == 0) config->threads = available_processors().default_threads();
  const int64_t limit = model.max_position_embeddings, block_size = config->block_size;
  if (config->max_model_len > limit)
    throw InvalidArgument("--max-model-len", "is " + std::to_string(config->max_model_len) +
                                                 ", but the model allows at most " +
                                                 std::to_string(limit));
  const auto backend = make_cpu_backend(1);
  auto blocks_for = [&](int64_t tokens) { return (tokens + block_size - 1) / block_size; };
  const int64_t block_bytes = backend->kv_cache_bytes(kv_shape(model, shard, *config, 1));

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
  plan.num_ranks = config->tensor_parallel_size;
  plan.kv_cache_bytes =
      backend->kv_cache_bytes(kv_shape(model, shard, *config, plan.num_kv_blocks));
  plan.weights_bytes =
      Transformer::planned_weight_bytes(checkpoint, *backend, shard, weight_type(*config));
  plan.activation_bytes =
      static_cast<int64_t>(sizeof(float)) *
      (Transformer::planned_activation_floats(model, shard, config->max_num_batched_tokens,
                                              config->max_model_len) +
       backend->max_logits_rows() * logits_columns(model, shards));
  return plan;
}

ModelRunner::ModelRunner(Checkpoint& checkpoint, const EngineConfig& config, const MemoryPlan& plan)
    : ModelRunner(checkpoint, config, plan, single_) {}

ModelRunner::ModelRunner(Checkpoint& checkpoint, const EngineConfig& config, const MemoryPlan& plan,
                         Communicator& ranks)
    : backend_(make_cpu_backend(static_cast<int>(config.threads))),
      ranks_(&backend_->connect(ranks)),
      shards_(make_shards(checkpoint.config(), cut_blocks(checkpoint), ranks.size())),
      vocab_size_(checkpoint.config().vocab_size) {
  const Shard& shard = shards_[ranks.rank()];
  transformer_ =
      std::make_unique<Transformer>(checkpoint, *backend_, *ranks_, shard, weight_type(config),
                                    config.max_num_batched_tokens, config.max_model_len);
  backend_->allocate_kv_cache(kv_shape(checkpoint.config(), shard, config, plan.num_kv_blocks));
  for (const Shard& s : shards_) vocab_sizes_.push_back(s.vocab.size());
  if (ranks.rank() == 0) logits_ = backend_->allocate(max_logits_rows() * vocab_size_);
  rows_.reserve(config.max_num_batched_tokens);
  logits_part_ =
      ranks.size() == 1 ? logits_ : backend_->allocate(max_logits_rows() * shard.vocab.size());
}

ModelRunner::~ModelRunner() {
  if (ranks_->size() == 1 || ranks_->rank() != 0) return;
  try {
    finish_logits();
    message_.clear();
    ranks_->broadcast(message_);
  } catch (const Error&) {  // a rank has failed, and the others know
  }
}

bool ModelRunner::run(const Batch& batch, const std::atomic<bool>* give_up) {
  if (ranks_->size() > 1) {
    finish_logits();  // of a step that was left half-way
    write_batch(batch, give_up != nullptr, &message_);
    ranks_->broadcast(message_);
  }
  return forward(batch, give_up);
}

bool ModelRunner::forward(const Batch& batch, const std::atomic<bool>* give_up) {
  auto pass = [&](const Batch& b) { return transformer_->forward(b, give_up); };
  const bool done = backend_->run(batch, std::ref(pass));
  rows_.clear();
  next_row_ = 0;
  if (done && ranks_->size() > 1) rows_.assign(batch.logits_rows.begin(), batch.logits_rows.end());
  return done;
}

std::span<const int32_t> ModelRunner::next_rows() const {
  const auto left = std::span(rows_).subspan(next_row_);
  return left.first(std::min<size_t>(left.size(), max_logits_rows()));
}

void ModelRunner::finish_logits() {
  while (next_row_ < rows_.size()) compute_logits(next_rows());
}

float* ModelRunner::compute_logits(std::span<const int32_t> rows) {
  if (ranks_->size() > 1 && !std::ranges::equal(rows, next_rows()))
    throw std::logic_error("logits were asked for in another order than the batch's");
  transformer_->compute_logits(rows, logits_part_);
  if (ranks_->size() == 1) return logits_;
  ranks_->gather_columns(logits_part_, std::ssize(rows), vocab_sizes_, logits_);
  next_row_ += rows.size();
  return logits_;
}

std::span<float> ModelRunner::logits(std::span<const int32_t> rows) {
  return backend_->to_host(compute_logits(rows), std::ssize(rows) * vocab_size_);
}

void ModelRunner::serve() {
  Batch batch;
  const std::atomic<bool> never = false;  // rank 0 decides
  while (true) {
    ranks_->broadcast(message_);
    if (message_.empty()) return;
    bool may_give_up = false;
    read_batch(message_, &batch, &may_give_up);
    if (forward(batch, may_give_up ? &never : nullptr)) finish_logits();
  }
}

}  // namespace nanovllm
