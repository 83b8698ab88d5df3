#include "engine/block_manager.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <random>
#include <stdexcept>

namespace nanovllm {

BlockManager::BlockManager(int64_t num_blocks, int64_t block_size, bool enable_prefix_caching)
    : block_size_(block_size),
      enable_prefix_caching_(enable_prefix_caching),
      blocks_(num_blocks),
      block_tokens_(enable_prefix_caching ? num_blocks * block_size : 0),
      buckets_(std::bit_ceil(static_cast<uint64_t>(2 * num_blocks)), -1) {
  std::random_device random;
  hash_seed_ = (static_cast<uint64_t>(random()) << 32) | random();
  for (int64_t i = 0; i < num_blocks; ++i) push_free(static_cast<int32_t>(i));
}

uint64_t BlockManager::chain_hash(uint64_t parent, std::span<const int32_t> tokens) const {
  return XXH3_64bits_withSeed(tokens.data(), tokens.size_bytes(), parent ^ hash_seed_);
}

std::span<const int32_t> BlockManager::tokens_of(const Sequence& seq, int64_t block) const {
  return std::span(seq.token_ids).subspan(block * block_size_, block_size_);
}

int32_t BlockManager::find(uint64_t hash, uint64_t parent, std::span<const int32_t> tokens) const {
  for (int32_t id = buckets_[hash & (buckets_.size() - 1)]; id != -1;
       id = blocks_[id].bucket_next) {
    const Block& b = blocks_[id];
    if (b.hash == hash && b.parent_hash == parent &&
        std::equal(tokens.begin(), tokens.end(), &block_tokens_[id * block_size_]))
      return id;
  }
  return -1;
}

template <class Visit>
void BlockManager::match_prefix(const Sequence& seq, const Sequence* sibling, Visit visit) const {
  // A request that wants its prompt scored needs the logits of every position: it computes all.
  if (seq.request->wants_prompt_logprobs(seq)) return;
  if (!enable_prefix_caching_) {
    if (!sibling) return;
    const int64_t shared =
        std::min(sibling->num_computed_tokens, seq.num_prompt_tokens - 1) / block_size_;
    for (int64_t b = 0; b < shared; ++b) visit(sibling->block_table[b], 0);
    return;
  }
  uint64_t parent = seq.request->salt_hash;
  for (int64_t b = 0; (b + 1) * block_size_ < seq.num_tokens(); ++b) {  // <: one token is left over
    const auto tokens = tokens_of(seq, b);
    const uint64_t hash = chain_hash(parent, tokens);
    const int32_t id = find(hash, parent, tokens);
    if (id == -1) return;
    visit(id, hash);
    parent = hash;
  }
}

bool BlockManager::can_allocate(const Sequence& seq, const Sequence* sibling,
                                int64_t reserve) const {
  int64_t needed = blocks_for(seq.num_tokens()) + reserve;
  if (needed <= num_free_) return true;
  // Shared blocks in use cost nothing; those that are free are counted in num_free_ already.
  match_prefix(seq, sibling, [&](int32_t id, uint64_t) { needed -= blocks_[id].ref_count > 0; });
  return needed <= num_free_;
}

bool BlockManager::will_share(const Sequence& seq, const Sequence& other) const {
  const int64_t end = (other.num_hashed_blocks + 1) * block_size_;
  return enable_prefix_caching_ && !other.is_decoding() && end <= other.num_tokens() &&
         end < seq.num_tokens() && seq.request->salt_hash == other.request->salt_hash &&
         !seq.request->wants_prompt_logprobs(seq) &&
         std::equal(other.token_ids.begin(), other.token_ids.begin() + end, seq.token_ids.begin());
}

void BlockManager::allocate(Sequence& seq, const Sequence* sibling) {
  seq.last_hash = seq.request->salt_hash;
  match_prefix(seq, sibling, [&](int32_t id, uint64_t hash) {
    add_reference(id);
    seq.block_table.push_back(id);
    seq.last_hash = hash;
  });
  const int64_t shared = std::ssize(seq.block_table);
  seq.num_hashed_blocks = enable_prefix_caching_ ? shared : 0;
  seq.num_computed_tokens = shared * block_size_;
  may_append(seq);
}

void BlockManager::deallocate(Sequence& seq) {
  // Last block first: the end of a sequence is less likely to be shared, so it is evicted first.
  for (auto it = seq.block_table.rbegin(); it != seq.block_table.rend(); ++it) drop_reference(*it);
  seq.block_table.clear();
  seq.num_computed_tokens = seq.num_hashed_blocks = 0;
}

int64_t BlockManager::may_append(Sequence& seq, int64_t num_drafts) {
  const int64_t wanted = seq.num_tokens() + num_drafts;
  while (std::ssize(seq.block_table) < blocks_for(wanted) && num_free_ > 0)
    seq.block_table.push_back(take_free_block());
  return std::min(wanted, std::ssize(seq.block_table) * block_size_) - seq.num_tokens();
}

void BlockManager::trim(Sequence& seq) {
  while (std::ssize(seq.block_table) > blocks_for(seq.num_computed_tokens)) {
    drop_reference(seq.block_table.back());
    seq.block_table.pop_back();
  }
}

void BlockManager::hash_blocks(Sequence& seq) {
  if (!enable_prefix_caching_) return;
  while ((seq.num_hashed_blocks + 1) * block_size_ <= seq.num_computed_tokens) {
    const auto tokens = tokens_of(seq, seq.num_hashed_blocks);
    const uint64_t hash = chain_hash(seq.last_hash, tokens);
    const int32_t id = seq.block_table[seq.num_hashed_blocks];
    // Another block may hold the same tokens already, computed at the same time; the first one
    // stays the findable one.
    if (!blocks_[id].hashed && find(hash, seq.last_hash, tokens) == -1) {
      Block& b = blocks_[id];
      b.hashed = true;
      b.hash = hash;
      b.parent_hash = seq.last_hash;
      std::copy(tokens.begin(), tokens.end(), &block_tokens_[id * block_size_]);
      int32_t& bucket = buckets_[hash & (buckets_.size() - 1)];
      b.bucket_next = bucket;
      bucket = id;
    }
    seq.last_hash = hash;
    ++seq.num_hashed_blocks;
  }
}

int32_t BlockManager::take_free_block() {
  if (free_head_ == -1) throw std::logic_error("BlockManager: no free block");
  const int32_t id = free_head_;
  unlink_hash(id);  // what it held is forgotten
  add_reference(id);
  return id;
}

void BlockManager::add_reference(int32_t id) {
  if (blocks_[id].ref_count++ == 0) unlink_free(id);
}

void BlockManager::drop_reference(int32_t id) {
  if (--blocks_[id].ref_count == 0) push_free(id);
}

void BlockManager::unlink_hash(int32_t id) {
  Block& b = blocks_[id];
  if (!b.hashed) return;
  int32_t* link = &buckets_[b.hash & (buckets_.size() - 1)];
  while (*link != id) link = &blocks_[*link].bucket_next;
  *link = b.bucket_next;
  b.bucket_next = -1;
  b.hashed = false;
}

// Blocks nobody can find go to the head, to be reused first; findable ones to the tail.
void BlockManager::push_free(int32_t id) {
  Block& b = blocks_[id];
  b.prev = b.hashed ? free_tail_ : -1;
  b.next = b.hashed ? -1 : free_head_;
  (b.prev == -1 ? free_head_ : blocks_[b.prev].next) = id;
  (b.next == -1 ? free_tail_ : blocks_[b.next].prev) = id;
  ++num_free_;
}

void BlockManager::unlink_free(int32_t id) {
  Block& b = blocks_[id];
  (b.prev == -1 ? free_head_ : blocks_[b.prev].next) = b.next;
  (b.next == -1 ? free_tail_ : blocks_[b.next].prev) = b.prev;
  b.prev = b.next = -1;
  --num_free_;
}

void BlockManager::check_integrity(std::span<Sequence* const> holders) const {
  auto require = [](bool ok, const char* what) {
    if (!ok) throw std::logic_error(std::string("BlockManager: ") + what);
  };
  std::vector<int32_t> references(blocks_.size(), 0);
  for (const Sequence* seq : holders) {
    for (int32_t id : seq->block_table) {
      require(id >= 0 && id < num_blocks(), "a block table names a block that does not exist");
      ++references[id];
    }
    require(seq->num_computed_tokens <= std::ssize(seq->block_table) * block_size_,
            "computed tokens without blocks");
    require(std::ssize(seq->block_table) <= blocks_for(seq->num_tokens()), "blocks without tokens");
    require(seq->num_hashed_blocks * block_size_ <= seq->num_computed_tokens,
            "a hash of tokens not yet computed");
    for (int64_t b = 0; b < seq->num_hashed_blocks; ++b)
      if (const int32_t id = seq->block_table[b]; blocks_[id].hashed)
        require(std::ranges::equal(tokens_of(*seq, b),
                                   std::span(block_tokens_).subspan(id * block_size_, block_size_)),
                "a shared block holds other tokens than its sequence");
  }
  int64_t free = 0, hashed = 0, in_buckets = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    require(blocks_[i].ref_count == references[i],
            "a reference count differs from the block tables");
    free += blocks_[i].ref_count == 0;
    hashed += blocks_[i].hashed;
  }
  require(free == num_free_, "the number of free blocks is wrong");
  int64_t listed = 0;
  for (int32_t id = free_head_, last = -1; id != -1; last = id, id = blocks_[id].next) {
    require(blocks_[id].ref_count == 0 && blocks_[id].prev == last, "the free list is broken");
    require(++listed <= free, "the free list has a cycle");
    require(blocks_[id].next != -1 || free_tail_ == id, "the free list's tail is wrong");
  }
  require(listed == free, "a free block is not in the free list");
  for (size_t b = 0; b < buckets_.size(); ++b)
    for (int32_t id = buckets_[b]; id != -1; id = blocks_[id].bucket_next) {
      const Block& block = blocks_[id];
      require(block.hashed && (block.hash & (buckets_.size() - 1)) == b, "a stale hash");
      const auto tokens = std::span(block_tokens_).subspan(id * block_size_, block_size_);
      require(chain_hash(block.parent_hash, tokens) == block.hash,
              "a hash differs from its tokens");
      require(find(block.hash, block.parent_hash, tokens) == id,
              "two findable blocks hold the same tokens");
      require(++in_buckets <= hashed, "a hash bucket has a cycle");
    }
  require(in_buckets == hashed, "a hashed block cannot be found");
}

}  // namespace nanovllm
