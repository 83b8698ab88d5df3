#include "model/model_runner.h"

#include <algorithm>
#include <stdexcept>

#include "model/batch_message.h"
#include "model/memory_plan.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// So many sequences of one token each, all in the same slot: what they leave in the cache is
// written anew before anybody reads it.
Batch first_decodes(int32_t seqs, int64_t block_size) {
  Batch batch;
  batch.block_size = static_cast<int32_t>(block_size);
  batch.block_table_stride = 1;
  for (auto* zeros : {&batch.token_ids, &batch.positions, &batch.slot_mapping, &batch.block_tables})
    zeros->assign(seqs, 0);
  batch.context_lens.assign(seqs, 1);
  for (int32_t i = 0; i <= seqs; ++i) batch.query_start.push_back(i);
  for (int32_t i = 0; i < seqs; ++i) batch.logits_rows.push_back(i);
  return batch;
}

}  // namespace

ModelRunner::ModelRunner(std::unique_ptr<Backend> backend, Checkpoint& checkpoint,
                         const EngineConfig& config, const MemoryPlan& plan)
    : ModelRunner(std::move(backend), checkpoint, config, plan, single_) {}

ModelRunner::ModelRunner(std::unique_ptr<Backend> backend, Checkpoint& checkpoint,
                         const EngineConfig& config, const MemoryPlan& plan, Communicator& ranks)
    : backend_(std::move(backend)),
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
  const StepLimits limits = step_limits(checkpoint.config(), config, config.max_model_len);
  backend_->reserve(limits);
  for (const int32_t seqs : backend_->recorded_sizes())
    if (seqs <= limits.max_seqs) forward(first_decodes(seqs, config.block_size), nullptr);
  rows_.clear();
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
