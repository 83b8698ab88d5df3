// One segment of one sequence's keys and values as attention reads it: pointers into the paged
// cache, or copies where the pages do not suit.
#pragma once

#include <stddef.h>

#include "backend/cpu/generic/attention_tiles.h"

namespace {

using nanovllm::kAttentionSegment;
using nanovllm::kKeyPanel;
using nanovllm::KVLayer;

constexpr int64_t kSegmentPanels = kAttentionSegment / kKeyPanel;

// Keys lo .. hi of a segment that starts at position `start`; the others may not be read.
struct SegmentView {
  const KVLayer* kv;
  const int32_t* block_table;
  int64_t kv_head, start, lo, hi;
};

// Calls f(key of the segment, count, block record's offset, offset of the first token in it) for
// the keys' runs within blocks.
template <typename F>
inline void for_runs(const SegmentView& s, int64_t lo, int64_t hi, const F& f) {
  const int64_t block_size = s.kv->block_size;
  int64_t block = (s.start + lo) / block_size, offset = (s.start + lo) % block_size;
  for (int64_t j = lo; j < hi; ++block, offset = 0) {
    const int64_t left = block_size - offset, count = left < hi - j ? left : hi - j;
    f(j, count, nanovllm::kv_record(*s.kv, s.block_table[block], s.kv_head), offset);
    j += count;
  }
}

// Panel `panel` of 16 keys as [words][16]: in place where blocks hold whole panels, else copied to
// `copy`, word by word; lanes outside lo .. hi are then left as they are.
inline const uint8_t* key_panel(const SegmentView& s, int64_t panel, int64_t words, uint8_t* copy) {
  const KVLayer& kv = *s.kv;
  const int64_t first = panel * kKeyPanel;
  if (kv.block_size % kKeyPanel == 0) {
    const int64_t position = s.start + first;
    return kv.keys + nanovllm::kv_record(kv, s.block_table[position / kv.block_size], s.kv_head) +
           nanovllm::kv_key_offset(position % kv.block_size, words);
  }
  const int64_t lo = s.lo > first ? s.lo : first;
  const int64_t hi = s.hi < first + kKeyPanel ? s.hi : first + kKeyPanel;
  for_runs(s, lo, hi, [&](int64_t j, int64_t count, int64_t record, int64_t offset) {
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t* from = kv.keys + record + nanovllm::kv_key_offset(offset + i, words);
      const int64_t stride = nanovllm::kv_key_stride(kv, offset + i);
      uint8_t* to = copy + 4 * (j + i - first);
      for (int64_t w = 0; w < words; ++w) __builtin_memcpy(to + w * 64, from + w * stride, 4);
    }
  });
  return copy;
}

// A panel as floats: [dimensions][16].
template <KVType kType>
NANO_VLLM_NOINLINE void widen_keys(const uint8_t* panel, int64_t words, float* out) {
  constexpr int kElements = nanovllm::kv_elements_a_word(kType);
  for (int64_t w = 0; w < words; ++w, out += 16 * kElements) {
    NANO_VLLM_UNROLL
    for (int j = 0; j < kElements; ++j) store(out + 16 * j, word_element<kType>(panel + w * 64, j));
  }
}

// Dimensions first .. first + 15 of the runs' values as floats: [keys][16].
template <KVType kType>
NANO_VLLM_NOINLINE void widen_values(const ValueRun* runs, int64_t num_runs, int64_t row_bytes,
                                     int64_t first, float* out) {
  for (int64_t run = 0; run < num_runs; ++run) {
    const uint8_t* row = runs[run].rows;
    for (int64_t j = 0; j < runs[run].count; ++j, row += row_bytes, out += 16)
      store(out, row_elements<kType>(row, first));
  }
}

// Values of panel `panel`'s keys, where blocks hold whole panels: as many lines as the keys have.
inline const uint8_t* panel_values(const SegmentView& s, int64_t panel, int64_t words) {
  const int64_t block_size = s.kv->block_size, position = s.start + panel * kKeyPanel;
  return s.kv->values +
         nanovllm::kv_record(*s.kv, s.block_table[position / block_size], s.kv_head) +
         position % block_size * words * 4;
}

// The runs of the values of keys lo .. hi, none longer than a panel; returns how many. next: the
// segment whose keys are fetched meanwhile, or null.
inline int64_t value_runs(const SegmentView& s, int64_t lo, int64_t hi, int64_t words,
                          const SegmentView* next, ValueRun* runs) {
  int64_t n = 0;
  for_runs(s, lo, hi, [&](int64_t j, int64_t count, int64_t record, int64_t offset) {
    const uint8_t* rows = s.kv->values + record + offset * words * 4;
    for (int64_t i = 0; i < count; i += kKeyPanel) {
      const int64_t left = count - i, panel = (j + i) / kKeyPanel;
      const bool fetch = next && panel * kKeyPanel < next->hi;
      runs[n++] = {rows + i * words * 4, left < kKeyPanel ? left : kKeyPanel,
                   fetch ? key_panel(*next, panel, words, nullptr) : nullptr};
    }
  });
  return n;
}

// Scales of keys (or values, by `base`) lo .. hi to scales[lo .. hi], zeros around them.
inline void segment_scales(const SegmentView& s, const uint8_t* base, float* scales) {
  for (int64_t j = 0; j < kAttentionSegment; j += 16) store(scales + j, zero());
  for_runs(s, s.lo, s.hi, [&](int64_t j, int64_t count, int64_t record, int64_t offset) {
    const uint8_t* from = base + record + nanovllm::kv_scale_offset(*s.kv, offset);
    __builtin_memcpy(scales + j, from, static_cast<size_t>(4 * count));
  });
}

}  // namespace
