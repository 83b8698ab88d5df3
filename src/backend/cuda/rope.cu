// The heads of q and k, normalized where the model does it, turned by their position; k and v to
// the cache.
#include "backend/cuda/cache.cuh"

namespace nanovllm::cuda {
namespace {

constexpr int kWarps = 4;

// One warp a head of one token: heads of q, then of k, then of v.
template <typename T, typename KV>
__global__ void rope_kernel(RopeArgs args, DeviceBatch batch, KVCache cache, T* qkv) {
  const int lane = threadIdx.x % 32, dim = cache.head_dim;
  const int q_heads = args.num_heads, kv_heads = cache.num_kv_heads, heads = q_heads + 2 * kv_heads;
  const int head = static_cast<int>(blockIdx.y * kWarps + threadIdx.x / 32);
  const int t = static_cast<int>(blockIdx.x);
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (head >= heads) return;
  T* const x = qkv + (int64_t{t} * heads + head) * dim;
  const int slot = batch.slots[t];
  if (slot < 0 && head >= q_heads) return;

  if (head >= q_heads + kv_heads) {
    KV* const to =
        static_cast<KV*>(cache.values) + cache_offset(cache, slot, head - q_heads - kv_heads);
    for (int i = lane; i < dim; i += 32) to[i] = from_float<KV>(to_float(x[i]));
    return;
  }

  const bool is_q = head < q_heads;
  const float* norm = is_q ? args.q_norm : args.k_norm;
  float scale = 1;
  if (norm != nullptr) {
    float sum = 0;
    for (int i = lane; i < dim; i += 32) sum += to_float(x[i]) * to_float(x[i]);
    scale = rsqrtf(warp_sum(sum) / static_cast<float>(dim) + args.eps);
  }
  const auto normalized = [&](int i) {
    const float value = to_float(x[i]);
    return norm != nullptr ? value * scale * norm[i] : value;
  };
  KV* const key =
      is_q ? nullptr : static_cast<KV*>(cache.keys) + cache_offset(cache, slot, head - q_heads);
  const auto put = [&](int i, float value) {
    if (is_q)
      x[i] = from_float<T>(value);
    else
      key[i] = from_float<KV>(value);
  };
  const int half = args.rotary_dim / 2;
  const float* cos_sin = args.cos_sin + int64_t{batch.positions[t]} * args.rotary_dim;
  for (int i = lane; i < half; i += 32) {
    const int first = args.interleaved ? 2 * i : i,
              second = args.interleaved ? 2 * i + 1 : i + half;
    const float a = normalized(first), b = normalized(second), c = cos_sin[i],
                s = cos_sin[half + i];
    put(first, a * c - b * s);
    put(second, b * c + a * s);
  }
  for (int i = args.rotary_dim + lane; i < dim; i += 32) put(i, normalized(i));
}

}  // namespace

void rope_and_store_kv(Element type, const RopeArgs& args, const DeviceBatch& batch,
                       const KVCache& cache, void* qkv, cudaStream_t stream) {
  if (batch.num_tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(batch.num_tokens),
                  ceil_div(args.num_heads + 2 * cache.num_kv_heads, kWarps));
  auto run = [&](auto t, auto kv) {
    using T = decltype(t);
    launch(rope_kernel<T, decltype(kv)>, grid, kWarps * 32, 0, stream, args, batch, cache,
           static_cast<T*>(qkv));
  };
  const bool wide = cache.type == Element::kFloat32;
  if (type == Element::kFloat32)
    wide ? run(float{}, float{}) : run(float{}, bf16{});
  else
    wide ? run(bf16{}, float{}) : run(bf16{}, bf16{});
}

}  // namespace nanovllm::cuda
