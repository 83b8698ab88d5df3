#include "backend/cpu/cpu_attention.h"

#include <algorithm>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// The states of one call are at most so many rows, 38 MB at a head size of 128; keys that would
// need more are not cut.
constexpr int64_t kMaxStates = 65536;
// No item should be larger than a thread's share divided by this, so that all end together.
constexpr int64_t kItemsAThread = 4;
// Consecutive tokens that one thread stores, where there are many: the keys of 16 lie in one line.
constexpr int64_t kStoreTokens = 16;

// Of the keys of a layer, and of its values, so many bytes lie on small pages: on a huge one each,
// the first token of a short answer would cost 2 MiB for every layer's keys and for its values.
constexpr int64_t kSmallPages = 2 << 20;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t CpuAttention::kv_bytes(const KVCacheShape& s) {
  int64_t bytes = 2 * 4;
  const int64_t words = kv_words(s.type, s.head_dim) + (s.type == KVType::kInt8 ? 1 : 0);
  for (const int64_t n : {s.num_layers, s.num_blocks, s.block_size, s.num_kv_heads, words})
    if (n < 0 || __builtin_mul_overflow(bytes, n, &bytes))
      throw Error("KV cache", "has a size out of range");
  return bytes;
}

void CpuAttention::allocate(const KVCacheShape& shape) {
  const int64_t bytes = kv_bytes(shape);
  kv_memory_ = Memory();
  kv_memory_ = Memory(bytes + kKVSlack, "KV cache", false);
  const int64_t part = bytes / std::max<int64_t>(1, 2 * int64_t{shape.num_layers});
  for (int64_t i = 0; i < 2 * int64_t{shape.num_layers}; ++i)
    kv_memory_.ask_for_huge_pages(i * part + kSmallPages, part - kSmallPages);
  kv_ = shape;
  scratch_stride_ = ceil_div(attention_scratch(shape.head_dim) * 4, 4096) * 4096;
  scratch_ = Memory(scratch_stride_ * pool_.size(), "attention scratch", false);
  states_ = Memory();
  if (pool_.size() > 1)
    states_ = Memory(kMaxStates * attention_state(shape.head_dim) * 4, "attention states", false);
}

KVLayer CpuAttention::layer(int index) const {
  const int64_t bytes =
      kv_.num_blocks * kv_.num_kv_heads * kv_record_bytes(kv_.type, kv_.block_size, kv_.head_dim);
  uint8_t* keys = reinterpret_cast<uint8_t*>(kv_memory_.data()) + index * 2 * bytes;
  return {keys, keys + bytes, kv_.type, kv_.block_size, kv_.num_kv_heads, kv_.head_dim};
}

void CpuAttention::rope_and_store(const Backend::RopeParams& p, const Batch& batch, float* qkv) {
  const int64_t row_floats = (p.num_heads + 2 * int64_t{p.num_kv_heads}) * p.head_dim;
  const KVLayer kv = layer(p.layer);
  const int64_t tokens = batch.num_tokens();
  const int64_t step =
      std::clamp<int64_t>(tokens / (kItemsAThread * pool_.size()), 1, kStoreTokens);
  const auto store = [&](int64_t t) {
    kernels_.rope_and_store({kv, p.num_heads, p.rotary_dim, p.q_norm, p.k_norm, p.norm_eps,
                             p.cos_sin + int64_t{batch.positions[t]} * p.rotary_dim, p.interleaved,
                             batch.slot_mapping[t], qkv + t * row_floats});
  };
  if (tokens == 1) return store(0);
  pool_.parallel_for(ceil_div(tokens, step), [&](int64_t item, int) {
    for (int64_t t = item * step; t < std::min(tokens, (item + 1) * step); ++t) store(t);
  });
}

void CpuAttention::plan(const AttentionParams& p, const Batch& batch) {
  const int64_t group = p.num_heads / kv_.num_kv_heads;
  tiles_.clear();
  items_.clear();
  split_.clear();
  int64_t total = 0;
  for (int32_t s = 0; s < batch.num_seqs(); ++s) {
    const int64_t rows = (batch.query_start[s + 1] - batch.query_start[s]) * group;
    const int64_t first_position = batch.positions[batch.query_start[s]];
    const int64_t heads =
        rows > kAttentionHeadRows ? 1 : std::min(kAttentionHeads, kAttentionRows / rows);
    // The last rows see the most keys: they go first, so that the threads end together.
    for (int64_t tile = ceil_div(rows, kAttentionRows) - 1; tile >= 0; --tile) {
      const int64_t first = tile * kAttentionRows, last = std::min(rows, first + kAttentionRows);
      const int64_t oldest = first_position + first / group,
                    newest = first_position + (last - 1) / group;
      const int64_t first_key =
          p.sliding_window > 0 ? std::max<int64_t>(0, oldest - p.sliding_window + 1) : 0;
      for (int64_t h = 0; h < kv_.num_kv_heads; h += heads) {
        tiles_.push_back({s, static_cast<int32_t>(h),
                          static_cast<int32_t>(std::min(heads, kv_.num_kv_heads - h)), first, last,
                          first_key / kAttentionSegment, newest / kAttentionSegment + 1, -1});
        total += tiles_.back().work();
      }
    }
  }
  const int64_t largest = std::max<int64_t>(1, total / (kItemsAThread * pool_.size()));
  int64_t states = 0;
  for (const Item& tile : tiles_) {
    if (pool_.size() == 1 || tile.rows() > kAttentionHeadRows || tile.work() <= largest) {
      items_.push_back(tile);
    } else {
      divide(tile, largest, &states);
    }
  }
}

// Cuts a tile of few rows into items of at most `largest` as far as that can be: into ranges of
// segments, and where those do not suffice, into kv heads.
void CpuAttention::divide(const Item& tile, int64_t largest, int64_t* states) {
  const int64_t wanted = ceil_div(tile.work(), largest);
  const bool cut = tile.segments() > 1 &&
                   *states + tile.work() <= kMaxStates;  // a state for each row and segment
  const int64_t ranges = cut ? std::min(wanted, tile.segments()) : 1;
  const int32_t heads =
      static_cast<int32_t>(std::max<int64_t>(1, tile.num_kv_heads / ceil_div(wanted, ranges)));
  for (int32_t h = 0; h < tile.num_kv_heads; h += heads) {
    Item part = tile;
    part.kv_head += h;
    part.num_kv_heads = std::min(heads, tile.num_kv_heads - h);
    if (!cut) {
      items_.push_back(part);
      continue;
    }
    part.state = *states;
    *states += part.work();
    split_.push_back(part);
    const int64_t states_a_segment = part.rows() * part.num_kv_heads;
    Item range = part;
    for (int64_t i = 0; i < ranges; ++i) {
      range.first_segment = part.first_segment + part.segments() * i / ranges;
      range.last_segment = part.first_segment + part.segments() * (i + 1) / ranges;
      range.state = part.state + (range.first_segment - part.first_segment) * states_a_segment;
      items_.push_back(range);
    }
  }
}

AttentionArgs CpuAttention::arguments(const Item& item, const AttentionParams& p,
                                      const Batch& batch, const float* qkv, float* out,
                                      int thread) const {
  const int64_t dim = kv_.head_dim, group = p.num_heads / kv_.num_kv_heads;
  const int64_t token = batch.query_start[item.sequence], head = item.kv_head * group;
  AttentionArgs a;
  a.kv = layer(p.layer);
  a.block_table = batch.block_tables.data() + int64_t{item.sequence} * batch.block_table_stride;
  a.kv_head = item.kv_head;
  a.num_kv_heads = item.num_kv_heads;
  a.group = group;
  a.q_stride = (p.num_heads + 2 * kv_.num_kv_heads) * dim;
  a.q = qkv + token * a.q_stride + head * dim;
  a.out_stride = p.num_heads * dim;
  a.out = out + token * a.out_stride + head * dim;
  a.state = item.state < 0
                ? nullptr
                : reinterpret_cast<float*>(states_.data()) + item.state * attention_state(dim);
  a.first_position = batch.positions[token];
  a.window = p.sliding_window;
  a.scale = p.scale;
  a.first_row = item.first_row;
  a.last_row = item.last_row;
  a.first_segment = item.first_segment;
  a.last_segment = item.last_segment;
  a.scratch = reinterpret_cast<float*>(scratch_.data() + thread * scratch_stride_);
  return a;
}

void CpuAttention::attention(const AttentionParams& p, const Batch& batch, const float* qkv,
                             float* out) {
  plan(p, batch);
  pool_.parallel_for(static_cast<int64_t>(items_.size()), [&](int64_t i, int thread) {
    kernels_.attention(arguments(items_[i], p, batch, qkv, out, thread));
  });
  pool_.parallel_for(static_cast<int64_t>(split_.size()), [&](int64_t i, int thread) {
    const Item& tile = split_[i];
    const AttentionArgs a = arguments(tile, p, batch, qkv, out, thread);
    const int64_t state = attention_state(kv_.head_dim),
                  heads_rows = tile.num_kv_heads * tile.rows();
    for (int64_t i = 0; i < heads_rows; ++i) {
      const int64_t row = tile.first_row + i % tile.rows(),
                    head = i / tile.rows() * a.group + row % a.group;
      kernels_.attention_merge({a.state + i * state, tile.segments(), heads_rows * state,
                                kv_.head_dim,
                                a.out + row / a.group * a.out_stride + head * kv_.head_dim});
    }
  });
}

}  // namespace nanovllm
