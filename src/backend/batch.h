// Batch: the work of one step, flat, as the scheduler hands it to the model runner. An explicit
// value, no global context.
//
// T tokens of S sequences are concatenated; a decode contributes one token, a prompt chunk several.
// A token id of -1 - r is the token that the step before drew in its row r, and that the host does
// not know yet. Only a backend with a sampler of its own is given such ids.
//
// The vectors are reserved once at the largest size a step may have, so that a steady step
// allocates nothing.
#pragma once

#include <cstdint>
#include <vector>

namespace nanovllm {

struct Batch {
  std::vector<int32_t> token_ids;  // [T] see above for negative ones
  std::vector<int32_t> positions;  // [T] absolute position of each token in its sequence
  std::vector<int32_t>
      slot_mapping;  // [T] KV slot that token's keys and values go to: block * block_size + offset
  std::vector<int32_t>
      query_start;  // [S + 1] sequence s owns tokens query_start[s] .. query_start[s + 1]
  std::vector<int32_t> context_lens;  // [S] keys in the cache after this step = last position + 1
  std::vector<int32_t>
      block_tables;  // [S, block_table_stride] block ids; entries past the sequence's blocks are -1
  std::vector<int32_t>
      logits_rows;  // [R] indices into the T tokens whose logits the sampler wants, ascending
  int32_t block_table_stride = 0;
  int32_t block_size = 0;

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_seqs() const { return static_cast<int32_t>(context_lens.size()); }
  // So that steps of up to that many tokens, sequences and table entries allocate nothing.
  void reserve(int64_t tokens, int64_t seqs, int64_t table_entries) {
    for (auto* v : {&token_ids, &positions, &slot_mapping, &logits_rows}) v->reserve(tokens);
    query_start.reserve(seqs + 1);
    context_lens.reserve(seqs);
    block_tables.reserve(table_entries);
  }
  void clear() {
    for (auto* v : {&token_ids, &positions, &slot_mapping, &query_start, &context_lens,
                    &block_tables, &logits_rows})
      v->clear();
  }
};

}  // namespace nanovllm
