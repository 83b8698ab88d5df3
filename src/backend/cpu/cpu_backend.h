// CpuBackend: the Backend on this machine's processors. Splits each call into items for the thread
// pool; the arithmetic is in the kernels of one instruction set (kernels.h). Owned by the model
// runner and called by its thread.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/cpu_attention.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/memory.h"
#include "backend/cpu/packing.h"
#include "backend/cpu/thread_pool.h"

namespace nanovllm {

class CpuBackend : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, int threads);

  std::string name() const override;
  std::string isa() const override { return kernels_.name; }

  std::unique_ptr<Weight> pack(std::span<const TensorView> parts, WeightType type) override;
  int64_t packed_bytes(std::span<const TensorView> parts, WeightType type) const override;
  void allocate_kv_cache(const KVCacheShape& shape) override { attention_.allocate(shape); }
  int64_t kv_cache_bytes(const KVCacheShape& shape) const override {
    return CpuAttention::kv_bytes(shape);
  }
  float* allocate(int64_t num_floats) override;
  void upload(std::span<const float> values, float* out) override {
    std::ranges::copy(values, out);
  }

  void embed(const Weight& table, int64_t first_id, std::span<const int32_t> ids,
             float* out) override;
  void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                float* out) override;
  void add_rms_norm(float* residual, const float* x, const float* weight, float eps, int64_t rows,
                    int64_t dim, float* out) override;
  void linear(const Weight& w, const float* bias, const float* x, int64_t rows,
              float* out) override;
  void logits(const Weight& head, const float* x, int64_t rows, float* out) override {
    linear(head, nullptr, x, rows, out);
  }
  std::span<float> to_host(float* logits, int64_t n) override {
    return {logits, static_cast<size_t>(n)};
  }
  void rope_and_store_kv(const RopeParams& p, const Batch& batch, float* qkv) override {
    attention_.rope_and_store(p, batch, qkv);
  }
  void attention(const AttentionParams& p, const Batch& batch, const float* qkv,
                 float* out) override {
    attention_.attention(p, batch, qkv, out);
  }
  void silu_mul(const float* gate_up, int64_t rows, int64_t dim, float* out) override;
  void gather_rows(const float* x, std::span<const int32_t> rows, int64_t dim, float* out) override;

  int num_threads() const override { return pool_.size(); }
  void parallel_for(int64_t items, const std::function<void(int64_t, int)>& f) override {
    pool_.parallel_for(items, f);
  }

 private:
  LinearMode mode(PanelKind kind, WeightType type) const;
  // Arranges args.x for its panels, in prepared_ (or leaves it where it is).
  void prepare(LinearArgs& args);
  float* scratch(int thread) {
    return reinterpret_cast<float*>(scratch_.data()) + thread * scratch_stride_;
  }
  void grow_scratch(int64_t floats_per_thread);
  // Runs f(row) for all rows, on one thread where there is too little to share.
  template <typename F>
  void for_rows(int64_t rows, int64_t floats_per_row, const F& f);

  const KernelTable& kernels_;
  ThreadPool pool_;
  std::vector<Memory> allocations_;
  Memory scratch_;  // of all threads
  int64_t scratch_stride_ = 0;
  Memory prepared_;  // grows to the largest product's needs
  CpuAttention attention_{kernels_, pool_};
};

}  // namespace nanovllm
