// Work on single rows: normalisation, activation, rotary embedding and the write to the KV cache.
// All of it is bound by reading and writing activations, and small beside the products.
#pragma once

#include <stddef.h>

#include "backend/cpu/generic/math.h"

namespace {

using nanovllm::kKeyPanel;
using nanovllm::KVLayer;
using nanovllm::KVType;
using nanovllm::RopeArgs;

// Calls f(first, count) for 0 .. dim by sixteens; count is 16 but for the last.
template <typename F>
inline void for_sixteens(int64_t dim, const F& f) {
  int64_t i = 0;
  for (; i + 16 <= dim; i += 16) f(i, int64_t{16});
  if (i < dim) f(i, dim - i);
}
inline V load_count(const float* p, int64_t n) { return n == 16 ? load(p) : load_first(p, n); }
inline void store_count(float* p, V v, int64_t n) {
  if (n == 16) {
    store(p, v);
  } else {
    store_first(p, v, n);
  }
}

// out = x / sqrt(mean(x^2) + eps) * weight, where residual, if given, first takes in x and is then
// x. The squares go to sixteen partial sums, element i to sum i mod 16.
void rms_norm(const float* x, float* residual, const float* weight, float eps, int64_t dim,
              float* out) {
  V sum = zero();
  if (residual) {
    for_sixteens(dim, [&](int64_t i, int64_t n) {
      const V v = add(load_count(residual + i, n), load_count(x + i, n));
      store_count(residual + i, v, n);
      sum = fma(v, v, sum);
    });
    x = residual;
  } else {
    for_sixteens(dim, [&](int64_t i, int64_t n) {
      const V v = load_count(x + i, n);
      sum = fma(v, v, sum);
    });
  }
  const V factor = set1(1.0f / __builtin_sqrtf(reduce_add(sum) / static_cast<float>(dim) + eps));
  for_sixteens(dim, [&](int64_t i, int64_t n) {
    store_count(out + i, mul(mul(load_count(x + i, n), factor), load_count(weight + i, n)), n);
  });
}

inline V silu(V x) { return div(x, add(set1(1), exp(sub(zero(), x)))); }

void silu_mul(const float* gate, const float* up, int64_t dim, float* out) {
  for_sixteens(dim, [&](int64_t i, int64_t n) {
    store_count(out + i, mul(silu(load_count(gate + i, n)), load_count(up + i, n)), n);
  });
}

// The pairs (x, y) of a head become (x cos - y sin, y cos + x sin), each one product rounded and
// one fused multiply-add.
inline void rotate(float* head, const RopeArgs& a) {
  const int64_t half = a.rotary_dim / 2;
  const float* cos = a.cos_sin;
  const float* sin = a.cos_sin + half;
  int64_t i = 0;
  if (a.interleaved) {
    alignas(64) static constexpr float kSigns[16] = {-1, 1, -1, 1, -1, 1, -1, 1,
                                                     -1, 1, -1, 1, -1, 1, -1, 1};
    const V signs = load(kSigns);
    for (; i + 8 <= half; i += 8) {
      const V v = load(head + 2 * i), s = mul(load_twice(sin + i), signs);
      store(head + 2 * i, fma(swap_pairs(v), s, mul(v, load_twice(cos + i))));
    }
  } else {
    for (; i + 16 <= half; i += 16) {
      const V x = load(head + i), y = load(head + half + i), c = load(cos + i), s = load(sin + i);
      store(head + i, fma(sub(zero(), y), s, mul(x, c)));
      store(head + half + i, fma(x, s, mul(y, c)));
    }
  }
  const int64_t step = a.interleaved ? 2 : 1, distance = a.interleaved ? 1 : half;
  for (; i < half; ++i) {
    float* p = head + i * step;
    const float x = p[0], y = p[distance];
    p[0] = __builtin_fmaf(-y, sin[i], x * cos[i]);
    p[distance] = __builtin_fmaf(x, sin[i], y * cos[i]);
  }
}

// What int8 multiplies by: the largest magnitude becomes 127. A head of (almost) zeros is zero.
struct Int8Scale {
  float scale = 0, inverse = 0;
};
inline Int8Scale int8_scale(const float* x, int64_t dim) {
  V largest = zero();
  for_sixteens(dim, [&](int64_t i, int64_t n) {
    const V v = load_count(x + i, n);
    largest = max(max(v, sub(zero(), v)), largest);
  });
  const float m = reduce_max(largest);
  if (m < 1e-30f) return {};
  return {m / 127, 127 / m};
}

// Writes n (at most 16) elements in the cache's type, zeros up to a whole word.
template <KVType kType>
inline void narrow(const float* x, int64_t n, float inverse, uint8_t* out) {
  const V v = load_count(x, n);
  if constexpr (kType == KVType::kFloat32) {
    store_count(reinterpret_cast<float*>(out), v, n);
  } else if constexpr (kType == KVType::kBFloat16) {
    if (n == 16) return store_bf16(reinterpret_cast<uint16_t*>(out), v);
    uint16_t elements[16];
    store_bf16(elements, v);
    __builtin_memcpy(out, elements, static_cast<size_t>((n + 1) / 2 * 4));
  } else {
    // Adding 1.5 * 2^23 rounds to an integer, to nearest even, in the low bits of the sum.
    uint32_t lanes[16];
    const V rounded = add(mul(v, set1(inverse)), set1(12582912.0f));
    store(reinterpret_cast<float*>(lanes), rounded);
    uint8_t elements[16];
    for (int i = 0; i < 16; ++i) elements[i] = static_cast<uint8_t>(lanes[i]);
    __builtin_memcpy(out, elements, static_cast<size_t>((n + 3) / 4 * 4));
  }
}

template <KVType kType>
inline void store_kv(const KVLayer& kv, int64_t slot, const float* k, const float* v) {
  constexpr int kElements = nanovllm::kv_elements_a_word(kType);
  const int64_t block = slot / kv.block_size, offset = slot % kv.block_size, dim = kv.head_dim,
                words = nanovllm::kv_words(kType, dim);
  const int64_t key_offset = nanovllm::kv_key_offset(offset, words),
                key_stride = nanovllm::kv_key_stride(kv, offset);
  for (int64_t h = 0; h < kv.num_kv_heads; ++h, k += dim, v += dim) {
    const int64_t record = nanovllm::kv_record(kv, block, h);
    Int8Scale key_scale, value_scale;
    if constexpr (kType == KVType::kInt8) {
      key_scale = int8_scale(k, dim);
      value_scale = int8_scale(v, dim);
      const int64_t at = record + nanovllm::kv_scale_offset(kv, offset);
      __builtin_memcpy(kv.keys + at, &key_scale.scale, 4);
      __builtin_memcpy(kv.values + at, &value_scale.scale, 4);
    }
    uint8_t* key = kv.keys + record + key_offset;
    uint8_t* value = kv.values + record + offset * words * 4;
    for_sixteens(dim, [&](int64_t i, int64_t n) {
      uint32_t word[16];
      narrow<kType>(k + i, n, key_scale.inverse, reinterpret_cast<uint8_t*>(word));
      for (int64_t w = 0; w < (n + kElements - 1) / kElements; ++w, key += key_stride)
        __builtin_memcpy(key, &word[w], 4);
      narrow<kType>(v + i, n, value_scale.inverse, value + i * 4 / kElements);
    });
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
  switch (a.kv.type) {
    case KVType::kFloat32:
      return store_kv<KVType::kFloat32>(a.kv, a.slot, k, v);
    case KVType::kBFloat16:
      return store_kv<KVType::kBFloat16>(a.kv, a.slot, k, v);
    case KVType::kInt8:
      return store_kv<KVType::kInt8>(a.kv, a.slot, k, v);
  }
}

}  // namespace
