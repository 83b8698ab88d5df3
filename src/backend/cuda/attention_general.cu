// Attention for every head size and type, without tensor cores: the path of float32, and of head
// sizes that the other kernels do not have. One block a token and query head; its four warps take
// 32 keys in turn, each with its own maximum, sum and output, which are merged at the end.
#include <cfloat>

#include "backend/cuda/cache.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;

// Shared memory: q, then of each warp 32 weights and 32 places in the cache, then of each warp its
// output, maximum and sum.
size_t shared_bytes(int head_dim) {
  return sizeof(float) * (head_dim + kWarps * 64 + kWarps * (head_dim + 2));
}

template <typename T, typename KV>
__global__ void attention_kernel(AttentionArgs args, DeviceBatch batch, KVCache cache) {
  const int dim = cache.head_dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int t = static_cast<int>(blockIdx.x) / args.num_heads,
            head = static_cast<int>(blockIdx.x) % args.num_heads;
  const int kv_head = head / (args.num_heads / cache.num_kv_heads);
  float* const q = dynamic_shared<float>();
  float* const weights = q + dim + warp * 32;
  int* const slots = reinterpret_cast<int*>(q + dim + kWarps * 32) + warp * 32;
  float* const outputs = q + dim + kWarps * 64;
  float* const output = outputs + warp * (dim + 2);  // then its maximum, then its sum

  wait_for_previous_kernel();
  let_next_kernel_start();
  T* const out = static_cast<T*>(args.out) + int64_t{blockIdx.x} * dim;
  if (batch.slots[t] < 0) {  // padding
    for (int i = threadIdx.x; i < dim; i += blockDim.x) out[i] = from_float<T>(0);
    return;
  }
  const T* const query = static_cast<const T*>(args.qkv) +
                         (int64_t{t} * (args.num_heads + 2 * cache.num_kv_heads) + head) * dim;
  for (int i = threadIdx.x; i < dim; i += blockDim.x) q[i] = to_float(query[i]) * args.scale;
  for (int i = lane; i < dim; i += 32) output[i] = 0;
  __syncthreads();

  const int32_t* table = batch.block_tables + int64_t{sequence_of(batch, t)} * *batch.table_stride;
  const int position = batch.positions[t];
  const int first =
      args.window > 0 && position >= args.window ? position + 1 - static_cast<int>(args.window) : 0;
  float largest = -FLT_MAX, sum = 0;
  for (int begin = first + warp * 32; begin <= position; begin += kWarps * 32) {
    const int key = begin + lane;
    float score = -FLT_MAX;
    if (key <= position) {
      slots[lane] = table[key / cache.block_size] * cache.block_size + key % cache.block_size;
      const KV* k = static_cast<const KV*>(cache.keys) + cache_offset(cache, slots[lane], kv_head);
      score = 0;
      for (int i = 0; i < dim; ++i) score += q[i] * to_float(k[i]);
    }
    const float before = largest;
    largest = fmaxf(largest, warp_max(score));
    const float weight = key <= position ? __expf(score - largest) : 0,
                fade = __expf(before - largest);
    sum = sum * fade + warp_sum(weight);
    weights[lane] = weight;
    __syncwarp();
    const int count = min(32, position + 1 - begin);
    for (int i = lane; i < dim; i += 32) {
      float o = output[i] * fade;
      for (int j = 0; j < count; ++j)
        o += weights[j] * to_float(static_cast<const KV*>(
                              cache.values)[cache_offset(cache, slots[j], kv_head) + i]);
      output[i] = o;
    }
    __syncwarp();
  }
  if (lane == 0) output[dim] = largest, output[dim + 1] = sum;
  __syncthreads();

  for (int w = 0; w < kWarps; ++w) largest = fmaxf(largest, outputs[w * (dim + 2) + dim]);
  float total = 0;
  for (int w = 0; w < kWarps; ++w)
    total += outputs[w * (dim + 2) + dim + 1] * __expf(outputs[w * (dim + 2) + dim] - largest);
  for (int i = threadIdx.x; i < dim; i += blockDim.x) {
    float o = 0;
    for (int w = 0; w < kWarps; ++w)
      o += outputs[w * (dim + 2) + i] * __expf(outputs[w * (dim + 2) + dim] - largest);
    out[i] = from_float<T>(o / total);
  }
}

}  // namespace

void attention_general(Element type, const AttentionArgs& args, const DeviceBatch& batch,
                       const KVCache& cache, cudaStream_t stream) {
  if (batch.num_tokens == 0) return;
  const auto blocks = static_cast<unsigned>(int64_t{batch.num_tokens} * args.num_heads);
  auto run = [&](auto t, auto kv) {
    launch(attention_kernel<decltype(t), decltype(kv)>, blocks, kWarps * 32,
           shared_bytes(cache.head_dim), stream, args, batch, cache);
  };
  const bool wide = cache.type == Element::kFloat32;
  if (type == Element::kFloat32)
    wide ? run(float{}, float{}) : run(float{}, bf16{});
  else
    wide ? run(bf16{}, float{}) : run(bf16{}, bf16{});
}

}  // namespace nanovllm::cuda
