// Where a key or a value lies in a layer's paged cache.
//
// Keys and values are [block][kv_head] records of block_size tokens. A token's head is `words`
// 32-bit words in both: one float, two bfloat16 or four int8 of neighbouring dimensions each, zeros
// behind the last.
//   keys    panels of 16 tokens, [words][16 tokens]: one load has 16 tokens side by side, as the
//           lanes of a score are. (A block's last panel is as wide as the tokens left for it.)
//   values  [token][words]: the dimensions side by side, as the lanes of an output are.
// The scales of int8 follow the words of their record, one float a token.
//
// Part of the kernels: nothing of the standard library, internal linkage only (kernels.h).
#pragma once

#include <stdint.h>

#include "backend/kv_type.h"

namespace nanovllm {

static constexpr int64_t kKeyPanel = 16;  // tokens

static constexpr int kv_elements_a_word(KVType type) {
  return type == KVType::kFloat32 ? 1 : type == KVType::kBFloat16 ? 2 : 4;
}
static constexpr int64_t kv_words(KVType type, int64_t head_dim) {
  return (head_dim + kv_elements_a_word(type) - 1) / kv_elements_a_word(type);
}
// Bytes of one record.
static constexpr int64_t kv_record_bytes(KVType type, int64_t block_size, int64_t head_dim) {
  return 4 * block_size * (kv_words(type, head_dim) + (type == KVType::kInt8 ? 1 : 0));
}
// Loads of 16 values may reach this far behind the last record.
static constexpr int64_t kKVSlack = 64;

struct KVLayer {
  uint8_t* keys;
  uint8_t* values;
  KVType type;
  int64_t block_size, num_kv_heads, head_dim;
};

// Offset of a record in keys and in values.
static inline int64_t kv_record(const KVLayer& kv, int64_t block, int64_t kv_head) {
  return (block * kv.num_kv_heads + kv_head) * kv_record_bytes(kv.type, kv.block_size, kv.head_dim);
}
// First word of the key of a record's token `offset`, and the distance to its next word.
static inline int64_t kv_key_offset(int64_t offset, int64_t words) {
  return 4 * (offset / kKeyPanel * kKeyPanel * words + offset % kKeyPanel);
}
static inline int64_t kv_key_stride(const KVLayer& kv, int64_t offset) {
  const int64_t left = kv.block_size - offset / kKeyPanel * kKeyPanel;
  return 4 * (left < kKeyPanel ? left : kKeyPanel);
}
static inline int64_t kv_scale_offset(const KVLayer& kv, int64_t offset) {
  return 4 * (kv.block_size * kv_words(kv.type, kv.head_dim) + offset);
}

}  // namespace nanovllm
