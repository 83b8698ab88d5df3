// CudaBackend: the Backend on one NVIDIA GPU; several ranks have one each (nccl_communicator.h).
// Activations are bfloat16, the residual, norm weights and logits float32, sums float32 everywhere.
// Where weights are asked for in float32, activations are, too. Quantized weights stay so
// (quantized.h).
//
// A call puts kernels into one stream and returns; to_host() is where the host waits. A step made
// of decodes alone is padded to one of a few sizes, recorded as a CUDA graph the first time, and
// repeated from then on (graphs.h).
//
// Owned by the model runner and called by one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/batch_buffers.h"
#include "backend/cuda/cuda_sampler.h"
#include "backend/cuda/graphs.h"
#include "backend/cuda/kernels.h"
#include "backend/cuda/matmul.h"
#include "backend/cuda/memory.h"
#include "backend/cuda/nccl_communicator.h"
#include "backend/cuda/quantized_matmul.h"
#include "backend/cuda/uploader.h"
#include "backend/plugin.h"

namespace nanovllm::cuda {

class CudaBackend : public Backend {
 public:
  explicit CudaBackend(const PluginOptions& options);
  ~CudaBackend() override;

  std::string name() const override { return "cuda (" + device_name_ + ")"; }
  std::string isa() const override { return isa_; }
  DeviceMemory device_memory() const override;

  std::unique_ptr<Weight> pack(std::span<const TensorView> parts, WeightType type) override;
  int64_t packed_bytes(std::span<const TensorView> parts, WeightType type) const override;
  void allocate_kv_cache(const KVCacheShape& shape) override;
  int64_t kv_cache_bytes(const KVCacheShape& shape) const override;
  float* allocate(int64_t num_floats) override;
  void upload(std::span<const float> values, float* out) override;
  Communicator& connect(Communicator& host) override;
  void reserve(const StepLimits& limits) override;
  int64_t reserved_bytes(const StepLimits& limits) const override;
  int64_t max_logits_rows() const override { return kLogitsRows; }
  std::unique_ptr<StepSampler> make_sampler() override;
  std::vector<int32_t> recorded_sizes() const override;

  bool run(const Batch& batch, const std::function<bool(const Batch&)>& forward) override;

  void embed(const Weight& table, int64_t first_id, std::span<const int32_t> ids,
             float* out) override;
  void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                float* out) override;
  void add_rms_norm(float* residual, const float* x, const float* weight, float eps, int64_t rows,
                    int64_t dim, float* out) override;
  void linear(const Weight& w, const float* bias, const float* x, int64_t rows,
              float* out) override;
  void logits(const Weight& head, const float* x, int64_t rows, float* out) override;
  std::span<float> to_host(float* logits, int64_t n) override;
  void rope_and_store_kv(const RopeParams& p, const Batch& batch, float* qkv) override;
  void attention(const AttentionParams& p, const Batch& batch, const float* qkv,
                 float* out) override;
  void silu_mul(const float* gate_up, int64_t rows, int64_t dim, float* out) override;
  void gather_rows(const float* x, std::span<const int32_t> rows, int64_t dim, float* out) override;

 private:
  // Enough for one product to fill the device, and few enough for their float32 logits.
  static constexpr int64_t kLogitsRows = 256;

  // Blocks of decoding for each multiprocessor: two (of 128 dimensions) to four (of 64) run at a
  // time, and some are short.
  static constexpr int kDecodeBlocks = 8;

  // What reserve() takes.
  struct Reserved {
    Reserved(const StepLimits& limits, bool graphs);
    BatchBuffers batch;
    Graphs graphs;
  };
  Reserved& reserved();

  // What linear() and logits() are.
  void multiply(const Weight& w, const float* x, int64_t rows, Element out_type, float* out);
  KVCache layer(int index) const;
  bool uses_tensor_cores() const;  // for attention
  // The current device is the calling thread's, and another thread may call than the one before.
  void make_current() const;

  const PluginOptions options_;
  std::string device_name_, isa_;
  Element element_ =
      Element::kBFloat16;       // of the activations, and of weights that are not quantized
  bool element_known_ = false;  // by the first weight
  Stream stream_;
  Uploader uploader_{stream_};
  std::optional<Matmul> matmul_;
  DeviceBuffer scratch_;
  std::unique_ptr<NcclCommunicator> communicator_;  // of several ranks
  const float* residual_ = nullptr;                 // what embed() filled last
  std::optional<Reserved> reserved_;
  PinnedBuffer
      logits_host_;  // as large as to_host() was asked for: by few, where there is a sampler
  int64_t logits_host_floats_ = 0;
  StepLimits limits_;
  SamplerLink link_;
  std::vector<DeviceBuffer> allocations_;
  KVCacheShape kv_shape_;
  DeviceBuffer kv_cache_, decode_parts_, decode_ended_;
  DecodeWorkspace decode_workspace_;

  // The pass under way or the last one: what `forward` was given, where it lies on the device, and
  // whose logits_rows may still be asked for.
  const Batch* batch_ = nullptr;
  DeviceBatch device_batch_;
  std::vector<int32_t> logits_rows_;
};

}  // namespace nanovllm::cuda
