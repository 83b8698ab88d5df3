// Backend: the one contract an accelerator implements. Every call covers a whole batch; activations
// are row-major matrices in memory of the backend, weights are packed once at load. A float* into
// that memory is a handle above the backend: nobody else reads through it or moves it. The CPU
// keeps activations as float32 there; another backend may keep them narrower, but for the logits.
//
// The promise (batch invariance): each output row depends only on its own input row (attention: on
// its own sequence's cache), bit for bit, whatever the number of rows, their order, the threads,
// the block size. So a product sums over K in one order for one row or five hundred, attention
// splits the keys at fixed absolute positions, and keys and values are read back from the cache
// (already rounded to its type) for cached and fresh tokens alike.
//
// Calls are made by one thread and complete in order: a device may still be at work when one
// returns, but for to_host() and what a StepSampler waits for. Steady calls allocate nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/batch.h"
#include "backend/kv_type.h"
#include "backend/step_sampler.h"
#include "backend/tensor.h"

namespace nanovllm {

class Communicator;

// How a packed weight is kept. kAsStored keeps BF16, F16 and block-quantized tensors as they are,
// and narrows F32 to bfloat16; the others convert unquantized tensors (block-quantized ones always
// stay as they are). kInt8 / kInt4 quantize unquantized tensors in blocks of 32 along the input
// dimension, kFloat8 row by row to 8-bit floats (E4M3), which not every backend has. Products with
// quantized weights may quantize the activations too, but for kFloat32.
enum class WeightType { kAsStored, kFloat32, kBFloat16, kInt8, kInt4, kFloat8 };

// A packed [out_features, in_features] matrix, opaque to everything above the backend.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t out_features = 0, in_features = 0;
  int64_t bytes = 0;  // memory it occupies
};

// One layer's paged KV cache is [num_blocks, block_size, num_kv_heads, head_dim] for keys and again
// for values (the backend may arrange it otherwise).
struct KVCacheShape {
  int64_t num_layers = 0, num_blocks = 0, block_size = 0, num_kv_heads = 0, head_dim = 0;
  KVType type = KVType::kBFloat16;
};

struct AttentionParams {
  int layer = 0;
  int num_heads = 0;           // query heads; a multiple of num_kv_heads
  float scale = 0;             // usually 1 / sqrt(head_dim)
  int64_t sliding_window = 0;  // 0: all keys; W: position p sees keys p-W+1 .. p
};

// The largest step that there will be, so that a device can have buffers of fixed size.
struct StepLimits {
  int64_t max_tokens = 0;    // of a batch; no more rows of logits than that either
  int64_t max_seqs = 0;      // of a batch
  int64_t max_blocks = 0;    // of one sequence, the largest block_table_stride
  int64_t max_position = 0;  // tokens of the longest sequence
  int64_t vocab_size = 0;
};

// Of a device with memory of its own. total_bytes 0: the backend uses the host's.
struct DeviceMemory {
  int64_t free_bytes = 0, total_bytes = 0;  // free: what this process can still get
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string name() const = 0;  // e.g. "cpu (avx2, 2 threads)"
  virtual std::string isa() const = 0;   // e.g. "avx2"
  virtual DeviceMemory device_memory() const { return {}; }

  // ---- load time
  // -------------------------------------------------------------------------------------------------
  // Stacks the rows of `parts` (all with the same in_features; dtypes may differ only if the
  // backend says so) into one packed weight, e.g. q, k and v. Parts may be slices, whose rows lie
  // apart (TensorView::stride). Throws Error for what it cannot pack.
  virtual std::unique_ptr<Weight> pack(std::span<const TensorView> parts, WeightType type) = 0;
  // Bytes pack() will occupy, for the memory plan; touches no tensor data.
  virtual int64_t packed_bytes(std::span<const TensorView> parts, WeightType type) const = 0;
  virtual void allocate_kv_cache(const KVCacheShape& shape) = 0;
  virtual int64_t kv_cache_bytes(const KVCacheShape& shape) const = 0;
  // Memory for activations and vectors, of that many float32 at most, 64-byte aligned, zeroed,
  // owned by the backend.
  virtual float* allocate(int64_t num_floats) = 0;
  // Constants for the calls below (norm weights, biases, the rotary table), into memory of
  // allocate().
  virtual void upload(std::span<const float> values, float* out) = 0;
  // The communicator whose all_reduce and gather_columns take this backend's memory, between the
  // calls below and in their order. Where that is the host's, as on the CPU, it is `host` itself;
  // another one hands what is said between hosts on to it. Owned by the backend.
  virtual Communicator& connect(Communicator& host) { return host; }
  // Takes what steps of that size need besides activations and KV cache (staging, workspace, the
  // sampler's buffers, recorded passes); called once, after all that is above. And its bytes, for
  // the memory plan.
  virtual void reserve(const StepLimits&) {}
  virtual int64_t reserved_bytes(const StepLimits&) const { return 0; }
  // Rows of logits that are computed at a time; bounds their buffer.
  virtual int64_t max_logits_rows() const { return 32; }
  // Who draws the tokens, after reserve(); it may not outlive the backend. Null: the host does.
  virtual std::unique_ptr<StepSampler> make_sampler() { return nullptr; }
  // Numbers of sequences, ascending: a decode batch of each is run once before the first request,
  // so that run() can record it.
  virtual std::vector<int32_t> recorded_sizes() const { return {}; }

  // ---- one step; all pointers come from allocate()
  // One pass over the batch: `forward` makes the calls below for the batch that it is given, and
  // says whether it came to the end. A backend may give it a padded batch, or repeat what an
  // earlier pass of the same shape recorded instead of calling it. When run() returns the batch may
  // be changed; parts of its logits_rows are given to gather_rows() before the next pass.
  virtual bool run(const Batch& batch, const std::function<bool(const Batch&)>& forward) {
    return forward(batch);
  }
  // ------------------------------------------------------------------
  // out[t, :] = row ids[t] - first_id of an embedding table [n, hidden], which holds the ids
  // first_id .. first_id + n - 1; zeros for other ids.
  virtual void embed(const Weight& table, int64_t first_id, std::span<const int32_t> ids,
                     float* out) = 0;
  // out[t, :] = x[t, :] / sqrt(mean(x^2) + eps) * weight;  x may be out. Rows are `dim` long,
  // `stride` apart in x and out.
  virtual void rms_norm(const float* x, const float* weight, float eps, int64_t rows, int64_t dim,
                        float* out) = 0;
  // residual[t, :] += x[t, :], then out = rms_norm(residual)  (one pass over memory)
  virtual void add_rms_norm(float* residual, const float* x, const float* weight, float eps,
                            int64_t rows, int64_t dim, float* out) = 0;
  // out[t, n] = sum_k x[t, k] * W[n, k] + bias[n] (bias may be null).  x [rows, in_features], out
  // [rows, out_features]
  virtual void linear(const Weight& w, const float* bias, const float* x, int64_t rows,
                      float* out) = 0;
  // The same for the output head, without a bias: out is float32 on every backend.
  virtual void logits(const Weight& head, const float* x, int64_t rows, float* out) = 0;
  // Waits for what was called so far; the first n floats of logits, which the host may read and
  // change until the next call.
  virtual std::span<float> to_host(float* logits, int64_t n) = 0;
  // In place on the q and k parts of qkv [T, (num_heads + 2 * num_kv_heads) * head_dim]: RMS norm
  // of each head if q_norm / k_norm [head_dim] are given, then rotary embedding with table
  // [max_positions, rotary_dim] (cos of rotary_dim/2 pairs, then sin; interleaved: pairs (2i, 2i+1)
  // as in GGUF llama files, else (i, i + rotary_dim/2)); then k and v are written to the cache.
  struct RopeParams {
    int layer = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0, rotary_dim = 0;
    const float* q_norm = nullptr;
    const float* k_norm = nullptr;
    float norm_eps = 0;
    const float* cos_sin = nullptr;
    bool interleaved = false;
  };
  virtual void rope_and_store_kv(const RopeParams& p, const Batch& batch, float* qkv) = 0;
  // Causal attention of each token's query (inside qkv, rows (num_heads + 2 * num_kv_heads) *
  // head_dim apart) over the cached keys of its sequence.  out [T, num_heads * head_dim]
  virtual void attention(const AttentionParams& p, const Batch& batch, const float* qkv,
                         float* out) = 0;
  // out[t, i] = silu(gate_up[t, i]) * gate_up[t, dim + i].  gate_up [rows, 2 * dim]
  virtual void silu_mul(const float* gate_up, int64_t rows, int64_t dim, float* out) = 0;
  // out[r, :] = x[rows[r], :]
  virtual void gather_rows(const float* x, std::span<const int32_t> rows, int64_t dim,
                           float* out) = 0;

  // ---- what the host does between two calls (sampling), on as many threads as the backend has to
  // spare: f(item, thread) for items 0 .. items - 1 and threads 0 .. num_threads() - 1.
  virtual int num_threads() const { return 1; }
  virtual void parallel_for(int64_t items, const std::function<void(int64_t, int)>& f) {
    for (int64_t item = 0; item < items; ++item) f(item, 0);
  }
};

// threads: at least 1. Throws Error for an instruction set forced through NANO_VLLM_FORCE_ISA that
// this machine lacks.
std::unique_ptr<Backend> make_cpu_backend(int threads);

}  // namespace nanovllm
