// Work on single rows: normalisation, activation, rotary embedding and the write to the KV cache.
// All of it is bound by reading and writing activations, and small beside the products.
#pragma once

#include "backend/cpu/generic/math.h"

namespace {

using nanovllm::KVLayer;
using nanovllm::RopeArgs;

// 1 / sqrt(mean(x^2) + eps); sixteen partial sums, lane i takes the elements i mod 16.
inline float inverse_rms(const float* x, float eps, int64_t dim) {
  V sum = zero();
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) {
    const V v = load(x + i);
    sum = fma(v, v, sum);
  }
  if (i < dim) {
    const V v = load_first(x + i, dim - i);
    sum = fma(v, v, sum);
  }
  return 1.0f / __builtin_sqrtf(reduce_add(sum) / static_cast<float>(dim) + eps);
}

void rms_norm(const float* x, float* residual, const float* weight, float eps, int64_t dim,
              float* out) {
  if (residual) {
    for (int64_t i = 0; i < dim; ++i) residual[i] += x[i];
    x = residual;
  }
  const float factor = inverse_rms(x, eps, dim);
  for (int64_t i = 0; i < dim; ++i) out[i] = x[i] * factor * weight[i];
}

inline V silu(V x) { return div(x, add(set1(1), exp(sub(zero(), x)))); }

void silu_mul(const float* gate, const float* up, int64_t dim, float* out) {
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) store(out + i, mul(silu(load(gate + i)), load(up + i)));
  const int64_t rest = dim - i;
  if (rest)
    store_first(out + i, mul(silu(load_first(gate + i, rest)), load_first(up + i, rest)), rest);
}

inline void rotate(float* head, const RopeArgs& a) {
  const int64_t half = a.rotary_dim / 2;
  const float* cos = a.cos_sin;
  const float* sin = a.cos_sin + half;
  const int64_t step = a.interleaved ? 2 : 1, distance = a.interleaved ? 1 : half;
  for (int64_t i = 0; i < half; ++i) {
    float* p = head + i * step;
    const float x = p[0], y = p[distance];
    p[0] = x * cos[i] - y * sin[i];
    p[distance] = y * cos[i] + x * sin[i];
  }
}

template <typename T>
inline T cache_value(float v);
template <>
inline float cache_value<float>(float v) {
  return v;
}
template <>
inline uint16_t cache_value<uint16_t>(float v) {
  return bfloat16_of(v);
}

template <typename T>
inline void store_kv(const KVLayer& kv, int64_t slot, const float* k, const float* v) {
  const int64_t block = slot / kv.block_size, offset = slot % kv.block_size, dim = kv.head_dim;
  for (int64_t h = 0; h < kv.num_kv_heads; ++h) {
    const int64_t base = (block * kv.num_kv_heads + h) * dim * kv.block_size;
    T* keys = static_cast<T*>(kv.keys) + base + offset;
    T* values = static_cast<T*>(kv.values) + base + offset * dim;
    for (int64_t d = 0; d < dim; ++d) {
      keys[d * kv.block_size] = cache_value<T>(k[h * dim + d]);
      values[d] = cache_value<T>(v[h * dim + d]);
    }
  }
}

void rope_and_store(const RopeArgs& a) {
  const int64_t dim = a.kv.head_dim;
  for (int64_t h = 0; h < a.num_heads + a.kv.num_kv_heads; ++h) {
    float* head = a.qkv + h * dim;
    const float* norm = h < a.num_heads ? a.q_norm : a.k_norm;
    if (norm) rms_norm(head, nullptr, norm, a.norm_eps, dim, head);
    rotate(head, a);
  }
  const float* k = a.qkv + a.num_heads * dim;
  const float* v = k + a.kv.num_kv_heads * dim;
  if (a.kv.bfloat16) {
    store_kv<uint16_t>(a.kv, a.slot, k, v);
  } else {
    store_kv<float>(a.kv, a.slot, k, v);
  }
}

}  // namespace
