// Causal attention over the paged cache, for a tile of query rows (token, head) that share one kv
// head.
//
// Keys are visited in chunks of 64 at absolute positions. A chunk of keys and of values is widened
// once into scratch, in panels of 16 keys and 16 dimensions, and serves all rows of the tile
// through the same register tile as the products. Each row keeps a running maximum m, sum l and
// accumulator (online softmax, Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867). A
// row's bits depend on its own visible keys only: a chunk without any leaves m, l and the
// accumulator as they are, a masked key has weight 0 exactly.
#pragma once

#include "backend/cpu/generic/linear.h"

namespace {

using nanovllm::AttentionArgs;
using nanovllm::kAttentionChunk;
using nanovllm::kAttentionRows;
using nanovllm::padded16;

inline float cache_float(float v) { return v; }
inline float cache_float(uint16_t v) {
  const uint32_t bits = static_cast<uint32_t>(v) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
}
inline V load_cache(const float* p) { return load(p); }
inline V load_cache(const uint16_t* p) { return load_bf16(p); }

// Widens keys and values of positions begin .. end, which lie in one chunk, to
//   k_panels [4 panels of 16 keys][head_dim][16], v_panels [panels of 16 dimensions][64 keys][16].
template <typename T>
inline void widen_chunk(const AttentionArgs& a, int64_t begin, int64_t end, float* k_panels,
                        float* v_panels) {
  const int64_t dim = a.kv.head_dim, block_size = a.kv.block_size;
  const int64_t chunk = begin / kAttentionChunk * kAttentionChunk;
  for (int64_t position = begin; position < end;) {
    const int64_t block = position / block_size, offset = position % block_size;
    const int64_t j = position - chunk;  // key within the chunk
    // as many as lie in this block and in this panel of 16
    int64_t count = 16 - j % 16;
    if (count > block_size - offset) count = block_size - offset;
    if (count > end - position) count = end - position;
    const int64_t base = (a.block_table[block] * a.kv.num_kv_heads + a.kv_head) * dim * block_size;
    const T* keys = static_cast<const T*>(a.kv.keys) + base + offset;
    float* k_out = k_panels + (j / 16 * dim * 16 + j % 16);
    if (count == 16) {
      for (int64_t d = 0; d < dim; ++d) store(k_out + d * 16, load_cache(keys + d * block_size));
    } else {
      for (int64_t d = 0; d < dim; ++d)
        for (int64_t i = 0; i < count; ++i)
          k_out[d * 16 + i] = cache_float(keys[d * block_size + i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const T* values = static_cast<const T*>(a.kv.values) + base + (offset + i) * dim;
      float* v_out = v_panels + (j + i) * 16;
      int64_t d = 0;
      for (; d + 16 <= dim; d += 16) store(v_out + d * kAttentionChunk, load_cache(values + d));
      for (int64_t rest = 0; rest < 16 && d < dim; ++rest)
        v_out[d * kAttentionChunk + rest] = d + rest < dim ? cache_float(values[d + rest]) : 0.0f;
    }
    position += count;
  }
}

// Turns a row's scores of one chunk into weights exp(s - m), 0 outside visible keys lo .. hi, and
// returns the factor that the earlier accumulator and sum are multiplied by.
inline float softmax_step(float* scores, float scale, int64_t lo, int64_t hi, float* running_max,
                          float* running_sum) {
  const float lowest = -__builtin_inff();
  for (int64_t j = 0; j < kAttentionChunk; ++j)
    scores[j] = j >= lo && j < hi ? scores[j] * scale : lowest;
  V largest = set1(lowest);
  for (int j = 0; j < kAttentionChunk; j += 16) largest = max(load(scores + j), largest);
  const float chunk_max = reduce_max(largest);
  const float new_max = chunk_max > *running_max ? chunk_max : *running_max;
  V sum = zero();
  for (int j = 0; j < kAttentionChunk; j += 16) {
    const V p = exp(sub(load(scores + j), set1(new_max)));
    store(scores + j, p);
    sum = add(sum, p);
  }
  float factor_lanes[16];
  store(factor_lanes, exp(set1(*running_max - new_max)));
  const float factor =
      factor_lanes[0];  // 0 for the first chunk, whose running maximum is -infinity
  *running_sum = *running_sum * factor + reduce_add(sum);
  *running_max = new_max;
  return factor;
}

void attention(const AttentionArgs& a) {
  const int64_t dim = a.kv.head_dim, padded = padded16(dim), rows = a.last_row - a.first_row;
  float* k_panels = a.scratch;
  float* v_panels = k_panels + kAttentionChunk * padded;
  float* q = v_panels + kAttentionChunk * padded;  // [rows][padded]
  float* acc = q + kAttentionRows * padded;        // [rows][padded]
  float* scores = acc + kAttentionRows * padded;   // [rows][64]
  float* running_max = scores + kAttentionRows * kAttentionChunk;
  float* running_sum = running_max + kAttentionRows;

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = (a.first_row + r) / a.group, head = (a.first_row + r) % a.group;
    const float* from = a.q + token * a.q_stride + head * dim;
    for (int64_t d = 0; d < dim; ++d) q[r * padded + d] = from[d];
    for (int64_t d = 0; d < padded; ++d) acc[r * padded + d] = 0;
    running_max[r] = -__builtin_inff();
    running_sum[r] = 0;
  }

  // Row r sees positions first_visible(r) .. position(r).
  const auto position = [&](int64_t r) { return a.first_position + (a.first_row + r) / a.group; };
  const auto first_visible = [&](int64_t r) {
    return a.window > 0 && position(r) >= a.window ? position(r) - a.window + 1 : 0;
  };
  const int64_t end = position(rows - 1) + 1;
  for (int64_t chunk = first_visible(0) / kAttentionChunk * kAttentionChunk; chunk < end;
       chunk += kAttentionChunk) {
    // Keys of this chunk that some row sees: first_visible and position never fall from row to row.
    const int64_t begin = first_visible(0) > chunk ? first_visible(0) : chunk;
    const int64_t stop = end < chunk + kAttentionChunk ? end : chunk + kAttentionChunk;
    if (a.kv.bfloat16) {
      widen_chunk<uint16_t>(a, begin, stop, k_panels, v_panels);
    } else {
      widen_chunk<float>(a, begin, stop, k_panels, v_panels);
    }
    // Rows from r0 to r1 see at least one of its keys.
    int64_t r0 = 0, r1 = rows;
    while (r0 < rows && position(r0) < chunk) ++r0;
    while (r1 > r0 && first_visible(r1 - 1) >= chunk + kAttentionChunk) --r1;
    const int64_t count = r1 - r0;
    if (count <= 0) continue;
    for (int64_t panel = (begin - chunk) / 16; panel * 16 < stop - chunk; ++panel)
      tiles(count, q + r0 * padded, padded, k_panels + panel * dim * 16, dim,
            scores + r0 * kAttentionChunk + panel * 16, kAttentionChunk, false);
    for (int64_t r = r0; r < r1; ++r) {
      const int64_t lo = first_visible(r) - chunk, hi = position(r) + 1 - chunk;
      const float factor = softmax_step(scores + r * kAttentionChunk, a.scale, lo, hi,
                                        running_max + r, running_sum + r);
      for (int64_t d = 0; d < padded; d += 16)
        store(acc + r * padded + d, mul(load(acc + r * padded + d), set1(factor)));
    }
    for (int64_t d = 0; d < padded; d += 16)
      tiles(count, scores + r0 * kAttentionChunk + (begin - chunk), kAttentionChunk,
            v_panels + d * kAttentionChunk + (begin - chunk) * 16, stop - begin,
            acc + r0 * padded + d, padded, true);
  }

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t token = (a.first_row + r) / a.group, head = (a.first_row + r) % a.group;
    float* to = a.out + token * a.out_stride + head * dim;
    for (int64_t d = 0; d < dim; ++d) to[d] = acc[r * padded + d] / running_sum[r];
  }
}

}  // namespace
