#include "fake_device/fake_device.h"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

#include "backend/plugin.h"
#include "sampling/host_sampler.h"

namespace nanovllm {
namespace {

FakeDeviceState state;

void require(bool ok, const char* what) {
  if (!ok) throw std::logic_error(std::string("fake device: ") + what);
}

// A step that has been submitted.
struct Tokens {
  std::vector<int32_t> ids;
  std::vector<PositionLogprobs> logprobs;
};

class FakeSampler : public StepSampler {
 public:
  FakeSampler(Backend& backend, const StepLimits& limits)
      : host_(backend, limits.vocab_size, limits.max_tokens) {
    for (Tokens& step : steps_) step.ids.reserve(limits.max_tokens);
  }

  void begin(std::span<const SampleRow> rows) override {
    rows_ = rows;
    begun_ = true;
    num_drawn_ = 0;
    state.overlapped += num_submitted_ > num_waited_;
    host_.begin(rows);
  }

  void draw(float* logits, int64_t first, int64_t count) override {
    require(begun_ && first == num_drawn_ && count >= 1 && count <= state.max_logits_rows,
            "rows are not drawn one after the other, so many at a time at most");
    for (const SampleRow& row : rows_.subspan(first, count))
      if (row.has_penalties()) check_history(row);
    host_.draw(logits, first, count);
    num_drawn_ += count;
  }

  void submit() override {
    require(begun_ && num_drawn_ == std::ssize(rows_), "a step without some of its draws");
    require(num_submitted_ - num_waited_ < 2, "three steps are under way");
    begun_ = false;
    Tokens& step = steps_[num_submitted_++ % 2];
    const auto ids = host_.wait();
    step.ids.assign(ids.begin(), ids.end());
    step.logprobs.clear();
    for (int64_t r = 0; r < std::ssize(ids); ++r) {
      const auto logprobs = host_.logprobs(r);
      if (logprobs.empty()) continue;
      step.logprobs.resize(ids.size());
      step.logprobs[r].assign(logprobs.begin(), logprobs.end());
    }
    ++state.steps;
    has_row_.clear();
  }

  std::span<const int32_t> wait() override {
    require(num_waited_ < num_submitted_, "there is no step to wait for");
    waited_ = steps_[num_waited_++ % 2];
    return waited_.ids;
  }

  std::span<const TokenLogprob> logprobs(int64_t row) const override {
    return waited_.logprobs.at(row);
  }

  // The token that the batch calls -1 - r.
  int32_t resolve(int32_t id) const {
    require(num_submitted_ > 0, "a token of a step before the first");
    ++state.pending_ids;
    return steps_[(num_submitted_ - 1) % 2].ids.at(-1 - id);
  }

 private:
  // Known tokens, one row a step, and from step to step they only grow.
  void check_history(const SampleRow& row) {
    require(std::ssize(row.history) == row.position, "a history of another length");
    require(std::ranges::all_of(row.history, [](int32_t id) { return id >= 0; }),
            "a history that is not known");
    require(has_row_.insert(row.sequence).second, "two rows with penalties of one sequence");
    std::vector<int32_t>& before = histories_[row.sequence];
    require(before.size() <= row.history.size() &&
                std::equal(before.begin(), before.end(), row.history.begin()),
            "a history that has changed");
    before.assign(row.history.begin(), row.history.end());
  }

  HostSampler host_;
  std::span<const SampleRow> rows_;
  bool begun_ = false;
  int64_t num_drawn_ = 0, num_submitted_ = 0, num_waited_ = 0;
  Tokens steps_[2], waited_;
  std::set<uint64_t> has_row_;
  std::map<uint64_t, std::vector<int32_t>> histories_;
};

class FakeBackend : public Backend {
 public:
  std::string name() const override { return "fake device"; }
  std::string isa() const override { return cpu_->isa(); }
  DeviceMemory device_memory() const override { return {state.free_bytes, state.total_bytes}; }

  std::unique_ptr<Weight> pack(std::span<const TensorView> parts, WeightType type) override {
    return cpu_->pack(parts, type);
  }
  int64_t packed_bytes(std::span<const TensorView> parts, WeightType type) const override {
    return cpu_->packed_bytes(parts, type);
  }
  void allocate_kv_cache(const KVCacheShape& shape) override { cpu_->allocate_kv_cache(shape); }
  int64_t kv_cache_bytes(const KVCacheShape& shape) const override {
    return cpu_->kv_cache_bytes(shape);
  }
  float* allocate(int64_t num_floats) override { return cpu_->allocate(num_floats); }
  void upload(std::span<const float> values, float* out) override { cpu_->upload(values, out); }

  void reserve(const StepLimits& limits) override {
    limits_ = limits;
    batch_.reserve(limits.max_tokens, limits.max_seqs, limits.max_seqs * limits.max_blocks);
  }
  int64_t reserved_bytes(const StepLimits& limits) const override {
    require(limits.max_tokens > 0 && limits.max_seqs > 0 && limits.max_blocks > 0 &&
                limits.max_position > 0 && limits.vocab_size > 0,
            "a step without limits");
    return state.reserved_bytes;
  }
  int64_t max_logits_rows() const override { return state.max_logits_rows; }
  std::unique_ptr<StepSampler> make_sampler() override {
    require(limits_.max_tokens > 0, "a sampler before reserve()");
    auto sampler = std::make_unique<FakeSampler>(*cpu_, limits_);
    sampler_ = sampler.get();
    return sampler;
  }
  std::vector<int32_t> recorded_sizes() const override { return state.recorded_sizes; }

  bool run(const Batch& batch, const std::function<bool(const Batch&)>& forward) override {
    require(batch.num_tokens() <= limits_.max_tokens && batch.num_seqs() <= limits_.max_seqs &&
                batch.block_table_stride <= limits_.max_blocks &&
                std::ranges::max(batch.context_lens) <= limits_.max_position,
            "a step beyond the limits");
    if (!sampler_) state.first_passes.push_back(batch.num_seqs());
    batch_ = batch;
    for (int32_t& id : batch_.token_ids)
      if (id < 0) id = sampler_->resolve(id);
    return cpu_->run(batch_, forward);
  }
  void embed(const Weight& table, int64_t first, std::span<const int32_t> ids,
             float* out) override {
    cpu_->embed(table, first, ids, out);
  }
  void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                float* out) override {
    cpu_->rms_norm(x, weight, eps, rows, dim, out);
  }
  void add_rms_norm(float* residual, const float* x, const float* weight, float eps, int64_t rows,
                    int64_t dim, float* out) override {
    cpu_->add_rms_norm(residual, x, weight, eps, rows, dim, out);
  }
  void linear(const Weight& w, const float* bias, const float* x, int64_t rows,
              float* out) override {
    cpu_->linear(w, bias, x, rows, out);
  }
  void logits(const Weight& head, const float* x, int64_t rows, float* out) override {
    cpu_->logits(head, x, rows, out);
  }
  std::span<float> to_host(float* logits, int64_t n) override { return cpu_->to_host(logits, n); }
  void rope_and_store_kv(const RopeParams& p, const Batch& batch, float* qkv) override {
    if (!sampler_) return;  // a first pass: all rows in one slot, which two threads would race for
    cpu_->rope_and_store_kv(p, batch, qkv);
  }
  void attention(const AttentionParams& p, const Batch& batch, const float* qkv,
                 float* out) override {
    cpu_->attention(p, batch, qkv, out);
  }
  void silu_mul(const float* gate_up, int64_t rows, int64_t dim, float* out) override {
    cpu_->silu_mul(gate_up, rows, dim, out);
  }
  void gather_rows(const float* x, std::span<const int32_t> rows, int64_t dim,
                   float* out) override {
    cpu_->gather_rows(x, rows, dim, out);
  }

 private:
  std::unique_ptr<Backend> cpu_ = make_cpu_backend(2);
  StepLimits limits_;
  Batch batch_;
  FakeSampler* sampler_ = nullptr;
};

}  // namespace
}  // namespace nanovllm

extern "C" {
nanovllm::FakeDeviceState* fake_device_state() { return &nanovllm::state; }
const char* nano_vllm_plugin_version() { return nanovllm::kPluginVersion; }
nanovllm::Backend* nano_vllm_make_backend(const nanovllm::PluginOptions*, char*, size_t) {
  return new nanovllm::FakeBackend;
}
}
