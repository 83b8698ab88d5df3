// The kernels, as functions of the host: each puts one launch (or a few) into the stream and
// returns. Pointers are to device memory. `Element` says what the activations (void*) are.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/quantized.h"

namespace nanovllm::cuda {

enum class Element { kFloat32, kBFloat16 };
constexpr int64_t element_bytes(Element e) { return e == Element::kFloat32 ? 4 : 2; }

// ---- rows.cu
// out[t, :] = table[ids[t] - first_id, :], or zeros where the table, [table_rows, dim] of `type`,
// has no such row; out is float32. An id of -1 - r is that of drawn[r].
void embed(Element type, const void* table, int64_t first_id, int64_t table_rows,
           const int32_t* ids, const int32_t* drawn, int64_t rows, int64_t dim, float* out,
           cudaStream_t stream);
// in += x unless x is null, then out = in / sqrt(mean(in^2) + eps) * weight. x and out are of
// `type`, and may be the same memory; in and weight are float32.
void add_rms_norm(Element type, float* in, const void* x, const float* weight, float eps,
                  int64_t rows, int64_t dim, void* out, cudaStream_t stream);
// out[t, i] = silu(gate_up[t, i]) * gate_up[t, dim + i].
void silu_mul(Element type, const void* gate_up, int64_t rows, int64_t dim, void* out,
              cudaStream_t stream);
// out[r, :] = x[rows[r], :].
void gather_rows(Element type, const void* x, const int32_t* rows, int64_t num_rows, int64_t dim,
                 void* out, cudaStream_t stream);
// x[t, :] += bias.
void add_bias(Element type, void* x, const float* bias, int64_t rows, int64_t dim,
              cudaStream_t stream);
// out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ..., summed in float32; parts [ranks, n]
// and out of `type`.
void sum_ranks(Element type, const void* parts, int ranks, int64_t n, void* out,
               cudaStream_t stream);

// ---- linear.cu
// y[t, n] = sum_k x[t, k] * w[n, k] for any shape: what cuBLASLt has no algorithm for. y is of
// `out_type`, its rows y_stride elements apart.
void plain_linear(Element type, const void* w, const void* x, int64_t rows, int64_t in, int64_t out,
                  Element out_type, void* y, int64_t y_stride, cudaStream_t stream);

// ---- linear_quantized.cu
// The same for up to kFewRows rows of bfloat16; the rows of out lie side by side.
constexpr int kFewRows = 32;
void few_rows_linear(const QuantizedMatrix& w, const void* x, int64_t rows, Element out_type,
                     void* out, cudaStream_t stream);

// ---- dequantize.cu
// Rows first_row, a multiple of 16, to first_row + rows - 1 as bfloat16 [rows, in_features].
void dequantize(const QuantizedMatrix& w, int64_t first_row, int64_t rows, void* to,
                cudaStream_t stream);
// embed() from such a table.
void embed_quantized(const QuantizedMatrix& table, int64_t first_id, const int32_t* ids,
                     const int32_t* drawn, int64_t tokens, float* out, cudaStream_t stream);

// ---- the cache and the batch, as kernels see them
// One layer of the cache: keys and values each [num_blocks][num_kv_heads][block_size][head_dim].
struct KVCache {
  Element type = Element::kBFloat16;
  void *keys = nullptr, *values = nullptr;
  int num_kv_heads = 0, block_size = 0, head_dim = 0;
};

// A step's batch in device memory; see backend/batch.h. The stride of the block tables is read from
// memory, because it changes from step to step and a graph repeats its arguments.
struct DeviceBatch {
  int num_tokens = 0, num_seqs = 0;
  int num_decodes = 0;  // sequences at the beginning that have one token each
  const int32_t *token_ids = nullptr, *positions = nullptr, *slots = nullptr;  // slot -1: padding
  const int32_t *query_start = nullptr, *context_lens = nullptr, *logits_rows = nullptr;
  const int32_t* block_tables = nullptr;
  const int32_t* table_stride = nullptr;
};

// ---- rope.cu
struct RopeArgs {
  int num_heads = 0, rotary_dim = 0;
  const float *q_norm = nullptr, *k_norm = nullptr;
  float eps = 0;
  const float* cos_sin = nullptr;
  bool interleaved = false;
};
// q inside qkv in place; k and v to the cache.
void rope_and_store_kv(Element type, const RopeArgs& args, const DeviceBatch& batch,
                       const KVCache& cache, void* qkv, cudaStream_t stream);

// ---- attention
struct AttentionArgs {
  int num_heads = 0;
  float scale = 0;
  int64_t window = 0;  // 0: none
  const void* qkv = nullptr;
  void* out = nullptr;
};
// attention_general.cu: any head size up to 256, any types; no tensor cores.
constexpr int kMaxHeadDim = 256;
void attention_general(Element type, const AttentionArgs& args, const DeviceBatch& batch,
                       const KVCache& cache, cudaStream_t stream);

// Tensor cores: bfloat16, and one of these head sizes. Together the two take a batch: prefill
// leaves out what decode takes. The prepare functions are called once for each device.
constexpr bool has_tensor_core_attention(int64_t head_dim) {
  return head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128;
}
// attention_prefill.cu: the sequences from num_decodes on.
void prepare_attention_prefill();
void attention_prefill(const AttentionArgs& args, const DeviceBatch& batch, const KVCache& cache,
                       cudaStream_t stream);
// attention_decode.cu: the first num_decodes sequences.
struct DecodeWorkspace {
  int blocks = 0;             // keys are split until there are about that many blocks
  float* parts = nullptr;     // [blocks, part_floats()]
  unsigned* ended = nullptr;  // [blocks], zeros between launches
  static int64_t part_floats(int64_t head_dim);
};
void prepare_attention_decode();
void attention_decode(const AttentionArgs& args, const DeviceBatch& batch, const KVCache& cache,
                      const DecodeWorkspace& workspace, cudaStream_t stream);

}  // namespace nanovllm::cuda
