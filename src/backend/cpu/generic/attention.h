// Causal attention over the paged cache, for a tile of query rows (token, head) that share one kv
// head.
//
// What is computed: keys are taken in segments of kAttentionSegment at absolute positions. In each
// segment a row has its own largest score m, weights exp(score - m), their sum l and the weighted
// sum of values, which depend on nothing outside the segment; the segments' states are then merged
// in order of position (the merge of Milakov and Gimelshein 2018,
// https://arxiv.org/abs/1805.02867). So segments may be computed anywhere and at any time, and a
// row's bits depend on its own visible keys alone: masked keys weigh exactly 0, a segment without
// visible keys leaves the state as it is.
//
// How: scores of all rows of the tile, panel of 16 keys by panel; their softmax, row by row;
// outputs, panel of 16 dimensions by panel. Each panel of the cache is widened to floats once for
// all rows, or, for up to two register tiles of rows (decoding), read straight from the cache.
#pragma once

#include "backend/cpu/generic/attention_cache.h"

namespace {

using nanovllm::AttentionArgs;
using nanovllm::AttentionMergeArgs;
using nanovllm::kAttentionRows;
using nanovllm::padded16;

// Rows' running maxima and sums, 16 rows at a time: takes in a segment's (maximum, sum) and gives
// the factors of the earlier output (keep) and of the segment's (take). A state without keys has
// maximum -infinity, and its factor is 0: exp gives 0 for what is not a number.
inline void merge_factors(float* maximum, float* sum, const float* segment_maximum,
                          const float* segment_sum, float* keep, float* take) {
  const V m = load(maximum), n = load(segment_maximum), larger = max(m, n);
  const V k = exp_not_positive(sub(m, larger)), t = exp_not_positive(sub(n, larger));
  store(maximum, larger);
  store(sum, fma(load(segment_sum), t, mul(load(sum), k)));
  store(keep, k);
  store(take, t);
}

// What one call works on for one kv head, all in its thread's scratch.
struct AttentionWork {
  int64_t kv_head;
  int64_t rows, num_tiles, padded;  // padded: floats of a row of q and of totals
  float* panel;                     // a widened panel of keys or values
  uint8_t* copies;                  // kSegmentPanels panels of keys, for odd block sizes
  float* q;                         // [rows][padded], scaled
  float* scores;                    // [rows][kScoreStride]
  float* total;                     // [rows][padded]
  float *maximum, *sum;             // [rows] of the totals
  float *segment_maximum, *segment_sum, *keep, *take;
  float *key_scales, *value_scales;  // [kAttentionSegment]
  int32_t* position;                 // [rows]
};

// The first row of tile t.
inline int64_t tile_begin(const AttentionWork& w, int64_t t) {
  return nanovllm::tile_start(t, w.num_tiles, w.rows);
}

// First visible key of a row and the end of the visible ones, within the segment at `start`.
inline int64_t visible_begin(const AttentionArgs& a, const AttentionWork& w, int64_t row,
                             int64_t start) {
  const int64_t first = a.window > 0 ? w.position[row] - a.window + 1 - start : 0;
  return first < 0 ? 0 : first > kAttentionSegment ? kAttentionSegment : first;
}
inline int64_t visible_end(const AttentionWork& w, int64_t row, int64_t start) {
  const int64_t end = w.position[row] + 1 - start;
  return end < 0 ? 0 : end > kAttentionSegment ? kAttentionSegment : end;
}

// Turns a row's scores into weights exp(score - largest), 0 for those not in lo .. hi; begin .. end
// (multiples of 16) are the ones that its tile looks at. With scales, the keys' go into the scores
// and the values' into the weights after they are summed.
NANO_VLLM_NOINLINE void softmax_row(float* scores, int64_t begin, int64_t end, int64_t lo,
                                    int64_t hi, const float* key_scales, const float* value_scales,
                                    float* maximum, float* sum) {
  const float lowest = -__builtin_inff();
  if (key_scales)
    for (int64_t j = begin; j < end; j += 16)
      store(scores + j, mul(load(scores + j), load(key_scales + j)));
  for (int64_t j = begin; j < lo; ++j) scores[j] = lowest;
  for (int64_t j = hi > begin ? hi : begin; j < end; ++j) scores[j] = lowest;
  V largest = set1(lowest);
  for (int64_t j = begin; j < end; j += 16) largest = max(load(scores + j), largest);
  *maximum = reduce_max(largest);
  const V m = set1(*maximum);
  V total = zero();
  for (int64_t j = begin; j < end; j += 16) {
    const V p = exp_not_positive(sub(load(scores + j), m));
    total = add(total, p);
    store(scores + j, value_scales ? mul(p, load(value_scales + j)) : p);
  }
  *sum = reduce_add(total);
}

template <KVType kType>
inline void attention_segment(const AttentionArgs& a, const AttentionWork& w, int64_t start,
                              int64_t next_head, int64_t next_start) {
  constexpr int kElements = nanovllm::kv_elements_a_word(kType);
  const int64_t dim = a.kv.head_dim, words = nanovllm::kv_words(kType, dim);
  const SegmentView s = {&a.kv,
                         a.block_table,
                         w.kv_head,
                         start,
                         visible_begin(a, w, 0, start),
                         visible_end(w, w.rows - 1, start)};
  if (s.lo >= s.hi) return;
  const bool direct = w.num_tiles <= 2, whole_panels = a.kv.block_size % kKeyPanel == 0;
  // Keys that some row of the tile sees.
  const auto tile_lo = [&](int64_t t) { return visible_begin(a, w, tile_begin(w, t), start); };
  const auto tile_hi = [&](int64_t t) { return visible_end(w, tile_begin(w, t + 1) - 1, start); };

  const uint8_t* panels[kSegmentPanels];
  const uint8_t* values[kSegmentPanels];
  const int64_t first_panel = s.lo / kKeyPanel, last_panel = (s.hi + kKeyPanel - 1) / kKeyPanel;
  if (direct) {
    for (int64_t p = first_panel; p < last_panel; ++p) {
      panels[p] = key_panel(s, p, words, w.copies + p * words * 64);
      values[p] = whole_panels ? panel_values(s, p, words) : panels[p];
    }
    for (int64_t t = 0; t < w.num_tiles; ++t) {
      const int64_t row = tile_begin(w, t), begin = tile_lo(t) / kKeyPanel,
                    end = (tile_hi(t) + kKeyPanel - 1) / kKeyPanel;
      if (begin < end)
        score_panels<kType, true>(tile_begin(w, t + 1) - row, panels + begin, values + begin,
                                  end - begin, words, w.q + row * w.padded, w.padded,
                                  w.scores + row * kScoreStride + begin * 16);
    }
  } else {
    for (int64_t p = first_panel; p < last_panel; ++p) {
      const uint8_t* panel = key_panel(s, p, words, w.copies);
      if (kType != KVType::kFloat32) {
        widen_keys<kType>(panel, words, w.panel);
        panel = reinterpret_cast<const uint8_t*>(w.panel);
      }
      for (int64_t t = 0; t < w.num_tiles; ++t) {
        const int64_t row = tile_begin(w, t);
        if (tile_lo(t) < (p + 1) * kKeyPanel && tile_hi(t) > p * kKeyPanel)
          score_panels<KVType::kFloat32, false>(tile_begin(w, t + 1) - row, &panel, nullptr, 1,
                                                words * kElements, w.q + row * w.padded, w.padded,
                                                w.scores + row * kScoreStride + p * kKeyPanel);
      }
    }
  }

  const bool scaled = kType == KVType::kInt8;
  if (scaled) {
    segment_scales(s, a.kv.keys, w.key_scales);
    segment_scales(s, a.kv.values, w.value_scales);
  }
  for (int64_t t = 0; t < w.num_tiles; ++t) {
    const int64_t begin = tile_lo(t) / 16 * 16, end = (tile_hi(t) + 15) / 16 * 16;
    for (int64_t r = tile_begin(w, t); r < tile_begin(w, t + 1); ++r)
      softmax_row(w.scores + r * kScoreStride, begin, end, visible_begin(a, w, r, start),
                  visible_end(w, r, start), scaled ? w.key_scales : nullptr,
                  scaled ? w.value_scales : nullptr, w.segment_maximum + r, w.segment_sum + r);
  }
  for (int64_t r = 0; r < w.rows; r += 16)
    merge_factors(w.maximum + r, w.sum + r, w.segment_maximum + r, w.segment_sum + r, w.keep + r,
                  w.take + r);

  ValueRun runs[kAttentionSegment];
  if (direct) {
    SegmentView next = s;  // its keys are fetched while the values are read
    next.kv_head = next_head;
    next.start = next_start;
    next.hi = whole_panels && next_start >= 0 ? visible_end(w, w.rows - 1, next_start) : 0;
    for (int64_t t = 0; t < w.num_tiles; ++t) {
      const int64_t row = tile_begin(w, t), lo = tile_lo(t), hi = tile_hi(t);
      if (lo < hi)
        value_panels<kType, true>(tile_begin(w, t + 1) - row, runs,
                                  value_runs(s, lo, hi, words, &next, runs), words * 4, 0,
                                  padded16(dim), w.scores + row * kScoreStride + lo, w.keep + row,
                                  w.take + row, w.total + row * w.padded, w.padded);
    }
  } else {
    const int64_t num_runs = value_runs(s, s.lo, s.hi, words, nullptr, runs);
    for (int64_t d = 0; d < dim; d += 16) {
      widen_values<kType>(runs, num_runs, words * 4, d, w.panel);
      for (int64_t t = 0; t < w.num_tiles; ++t) {
        const int64_t row = tile_begin(w, t), lo = tile_lo(t), hi = tile_hi(t);
        const ValueRun run = {reinterpret_cast<const uint8_t*>(w.panel + (lo - s.lo) * 16), hi - lo,
                              nullptr};
        if (lo < hi)
          value_panels<KVType::kFloat32, false>(
              tile_begin(w, t + 1) - row, &run, 1, 64, 0, 16, w.scores + row * kScoreStride + lo,
              w.keep + row, w.take + row, w.total + row * w.padded + d, w.padded);
      }
    }
  }
}

// The work of the call's kv head h: its own queries, totals and sums; rows are few if there are
// several heads, and 16 apart in the arrays of sums.
inline AttentionWork work_of_head(const AttentionWork& first, int64_t h) {
  AttentionWork w = first;
  w.kv_head += h;
  w.q += h * w.rows * w.padded;
  w.total += h * w.rows * w.padded;
  w.maximum += h * 16;
  w.sum += h * 16;
  w.segment_maximum += h * 16;
  w.segment_sum += h * 16;
  return w;
}

inline void clear_totals(const AttentionWork& w) {
  for (int64_t r = 0; r < padded16(w.rows); ++r) {
    w.maximum[r] = w.segment_maximum[r] = -__builtin_inff();
    w.sum[r] = w.segment_sum[r] = 0;
  }
  for (int64_t i = 0; i < w.rows * w.padded; i += 16) store(w.total + i, zero());
}

// Copies the queries of kv head h of the call, scaled, to [rows][padded].
NANO_VLLM_NOINLINE void load_queries(const AttentionArgs& a, const AttentionWork& w, int64_t h) {
  const int64_t dim = a.kv.head_dim;
  const V scale = set1(a.scale);
  for (int64_t r = 0; r < w.rows; ++r) {
    const int64_t token = (a.first_row + r) / a.group,
                  head = h * a.group + (a.first_row + r) % a.group;
    const float* from = a.q + token * a.q_stride + head * dim;
    float* to = w.q + r * w.padded;
    w.position[r] = static_cast<int32_t>(a.first_position + token);
    int64_t d = 0;
    for (; d + 16 <= dim; d += 16) store(to + d, mul(load(from + d), scale));
    if (d < dim) store(to + d, mul(load_first(from + d, dim - d), scale));
  }
}

// Writes total / sum of one row.
NANO_VLLM_NOINLINE void finish_row(const float* total, float sum, int64_t dim, float* out) {
  const V factor = set1(1 / sum);
  int64_t d = 0;
  for (; d + 16 <= dim; d += 16) store(out + d, mul(load(total + d), factor));
  if (d < dim) store_first(out + d, mul(load(total + d), factor), dim - d);
}

template <KVType kType>
void attention_type(const AttentionArgs& a) {
  const int64_t dim = a.kv.head_dim, padded = padded16(dim);
  float* next = a.scratch;
  const auto take = [&](int64_t floats) {
    float* p = next;
    next += floats;
    return p;
  };
  AttentionWork first;
  first.kv_head = a.kv_head;
  first.rows = a.last_row - a.first_row;
  first.num_tiles = (first.rows + kTileRows - 1) / kTileRows;
  first.padded = padded;
  first.panel = take(nanovllm::attention_panel(dim));
  first.copies = reinterpret_cast<uint8_t*>(take(kAttentionSegment * padded));
  first.q = take(kAttentionRows * padded);
  first.scores = take(kAttentionRows * kScoreStride);
  first.total = take(kAttentionRows * padded);
  first.maximum = take(nanovllm::kAttentionSums);
  first.sum = take(nanovllm::kAttentionSums);
  first.segment_maximum = take(nanovllm::kAttentionSums);
  first.segment_sum = take(nanovllm::kAttentionSums);
  first.keep = take(kAttentionRows);
  first.take = take(kAttentionRows);
  first.key_scales = take(kAttentionSegment);
  first.value_scales = take(kAttentionSegment);
  first.position = reinterpret_cast<int32_t*>(take(kAttentionRows));

  for (int64_t h = 0; h < a.num_kv_heads; ++h) {
    load_queries(a, work_of_head(first, h), h);
    clear_totals(work_of_head(first, h));
  }
  float* state = a.state;
  for (int64_t s = a.first_segment; s < a.last_segment; ++s) {
    for (int64_t h = 0; h < a.num_kv_heads; ++h) {
      const AttentionWork w = work_of_head(first, h);
      const bool last_head = h + 1 == a.num_kv_heads;
      const int64_t next_segment = !last_head ? s : s + 1 < a.last_segment ? s + 1 : -1;
      attention_segment<kType>(a, w, s * kAttentionSegment, last_head ? a.kv_head : w.kv_head + 1,
                               next_segment * kAttentionSegment);
      if (!a.state) continue;
      for (int64_t r = 0; r < w.rows; ++r, state += nanovllm::attention_state(dim)) {
        for (int64_t d = 0; d < padded; d += 16) store(state + d, load(w.total + r * padded + d));
        state[padded] = w.maximum[r];
        state[padded + 1] = w.sum[r];
      }
      clear_totals(w);
    }
  }
  if (a.state) return;
  for (int64_t h = 0; h < a.num_kv_heads; ++h) {
    const AttentionWork w = work_of_head(first, h);
    for (int64_t r = 0; r < w.rows; ++r) {
      const int64_t token = (a.first_row + r) / a.group,
                    head = h * a.group + (a.first_row + r) % a.group;
      finish_row(w.total + r * padded, w.sum[r], dim, a.out + token * a.out_stride + head * dim);
    }
  }
}

void attention(const AttentionArgs& a) {
  switch (a.kv.type) {
    case KVType::kFloat32:
      return attention_type<KVType::kFloat32>(a);
    case KVType::kBFloat16:
      return attention_type<KVType::kBFloat16>(a);
    case KVType::kInt8:
      return attention_type<KVType::kInt8>(a);
  }
}

void attention_merge(const AttentionMergeArgs& a) {
  const int64_t padded = padded16(a.head_dim);
  // The first state takes in the others; lane 0 of 16 is used.
  float maximum[16] = {}, sum[16] = {}, segment_maximum[16] = {}, segment_sum[16] = {}, keep[16],
        take[16];
  float* total = a.states;
  maximum[0] = total[padded];
  sum[0] = total[padded + 1];
  for (int64_t s = 1; s < a.num_states; ++s) {
    const float* state = a.states + s * a.state_distance;
    segment_maximum[0] = state[padded];
    segment_sum[0] = state[padded + 1];
    merge_factors(maximum, sum, segment_maximum, segment_sum, keep, take);
    for (int64_t d = 0; d < padded; d += 16)
      store(total + d, fma(load(state + d), set1(take[0]), mul(load(total + d), set1(keep[0]))));
  }
  finish_row(total, sum[0], a.head_dim, a.out);
}

}  // namespace
