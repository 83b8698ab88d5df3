// BlockManager: who holds which block of the paged KV cache, and which blocks hold tokens that
// another request could use.
//
// A block stores the keys and values of block_size consecutive tokens. Full, computed blocks are
// found again through a chained hash of (parent hash, token ids), whose first parent is the
// request's salt; the token ids are compared on a hit. A block with no references stays findable
// until it is handed out again, least recently used first. Every operation is O(1) a block.
//
// Engine thread only. All memory is taken in the constructor.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sequence.h"

namespace nanovllm {

class BlockManager {
 public:
  BlockManager(int64_t num_blocks, int64_t block_size, bool enable_prefix_caching);

  // May seq hold blocks for all its tokens and leave `reserve` free ones? Counts those it would
  // share. Changes nothing. sibling: a running sequence with the same prompt, or null; its blocks
  // are shared even without prefix caching.
  bool can_allocate(const Sequence& seq, const Sequence* sibling, int64_t reserve) const;
  // The next block that `other` computes is one that seq needs too.
  bool will_share(const Sequence& seq, const Sequence& other) const;
  // Gives seq blocks for all its tokens; shared ones are counted in seq.num_computed_tokens. At
  // least one token is always left to compute, since the next token comes from its logits. Needs
  // can_allocate().
  void allocate(Sequence& seq, const Sequence* sibling);
  void deallocate(Sequence& seq);  // and seq starts over: num_computed_tokens = 0

  // Takes blocks for the newest token and num_drafts more after it, as far as free ones go. Returns
  // how many drafts have a slot now; -1: the newest token has none either.
  int64_t may_append(Sequence& seq, int64_t num_drafts = 0);
  void trim(Sequence& seq);  // gives back the blocks behind the computed tokens

  // Makes the blocks that seq.num_computed_tokens has filled findable.
  void hash_blocks(Sequence& seq);

  int64_t blocks_for(int64_t num_tokens) const {
    return (num_tokens + block_size_ - 1) / block_size_;
  }
  int64_t num_blocks() const { return static_cast<int64_t>(blocks_.size()); }
  int64_t num_used_blocks() const { return num_blocks() - num_free_; }
  int64_t block_size() const { return block_size_; }
  int32_t num_references(int32_t id) const { return blocks_[id].ref_count; }
  bool is_cached(int32_t id) const { return blocks_[id].hashed; }

  // Proves every invariant against the sequences that hold blocks; throws std::logic_error naming
  // the broken one.
  void check_integrity(std::span<Sequence* const> holders) const;

 private:
  struct Block {
    int32_t ref_count = 0;
    int32_t prev = -1, next = -1;  // in the free list, if ref_count is 0
    int32_t bucket_next = -1;      // in the hash bucket, if hashed
    bool hashed = false;
    uint64_t hash = 0, parent_hash = 0;  // of the chain up to this block, and up to the one before
  };
  uint64_t chain_hash(uint64_t parent, std::span<const int32_t> tokens) const;
  std::span<const int32_t> tokens_of(const Sequence& seq, int64_t block) const;
  int32_t find(uint64_t hash, uint64_t parent, std::span<const int32_t> tokens) const;  // -1: none
  // Calls visit(block, hash) for the leading blocks that seq may share with cache or sibling.
  template <class Visit>
  void match_prefix(const Sequence& seq, const Sequence* sibling, Visit visit) const;
  int32_t take_free_block();
  void add_reference(int32_t id);
  void drop_reference(int32_t id);
  void unlink_hash(int32_t id);
  void push_free(int32_t id);
  void unlink_free(int32_t id);

  const int64_t block_size_;
  const bool enable_prefix_caching_;
  uint64_t hash_seed_;  // secret, so that nobody can craft collisions
  std::vector<Block> blocks_;
  std::vector<int32_t> block_tokens_;        // [num_blocks, block_size], of hashed blocks
  std::vector<int32_t> buckets_;             // hash -> first block or -1; a power of two of them
  int32_t free_head_ = -1, free_tail_ = -1;  // head is handed out next
  int64_t num_free_ = 0;
};

}  // namespace nanovllm
