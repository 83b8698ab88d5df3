// The block manager alone: sharing, eviction, and the bugs that users of nano-vLLM met.

#include "engine/block_manager.h"

#include <gtest/gtest.h>

#include <random>

namespace nanovllm {
namespace {

// A sequence of its own request. The salt separates cache entries.
struct Holder {
  explicit Holder(std::vector<int32_t> tokens, uint64_t salt = 0) {
    request.salt_hash = salt;
    seq.request = &request;
    seq.num_prompt_tokens = static_cast<int64_t>(tokens.size());
    seq.token_ids = std::move(tokens);
  }
  void compute_all(BlockManager& manager) {
    seq.num_computed_tokens = seq.num_tokens();
    manager.hash_blocks(seq);
  }
  Request request;
  Sequence seq;
};

std::vector<int32_t> range(int first, int count) {
  std::vector<int32_t> v(count);
  for (int i = 0; i < count; ++i) v[i] = first + i;
  return v;
}

void check(const BlockManager& manager, std::vector<Sequence*> holders) {
  manager.check_integrity(holders);
}

TEST(BlockManager, LiveSequencesShareFullBlocks) {
  BlockManager manager(8, 4, true);
  Holder a(range(0, 10)), b(range(0, 10));
  manager.allocate(a.seq, nullptr);
  a.compute_all(manager);
  manager.allocate(b.seq, nullptr);
  EXPECT_EQ(b.seq.num_computed_tokens, 8);
  EXPECT_EQ(b.seq.block_table[0], a.seq.block_table[0]);
  EXPECT_EQ(b.seq.block_table[1], a.seq.block_table[1]);
  EXPECT_NE(b.seq.block_table[2], a.seq.block_table[2]);
  EXPECT_EQ(manager.num_used_blocks(), 4);
  check(manager, {&a.seq, &b.seq});
  manager.deallocate(a.seq);
  check(manager, {&b.seq});
}

TEST(BlockManager, FullyCachedPromptLeavesOneBlockToCompute) {
  BlockManager manager(8, 4, true);
  Holder a(range(0, 8)), b(range(0, 8));
  manager.allocate(a.seq, nullptr);
  a.compute_all(manager);
  manager.deallocate(a.seq);
  manager.allocate(b.seq, nullptr);
  EXPECT_EQ(b.seq.num_computed_tokens, 4);
  EXPECT_EQ(b.seq.num_uncomputed_tokens(), 4);
  check(manager, {&b.seq});
}

TEST(BlockManager, SaltSeparates) {
  BlockManager manager(8, 4, true);
  Holder a(range(0, 9), 1), b(range(0, 9), 2), c(range(0, 9), 1);
  manager.allocate(a.seq, nullptr);
  a.compute_all(manager);
  manager.allocate(b.seq, nullptr);
  EXPECT_EQ(b.seq.num_computed_tokens, 0);
  manager.deallocate(b.seq);
  manager.allocate(c.seq, nullptr);
  EXPECT_EQ(c.seq.num_computed_tokens, 8);
  check(manager, {&a.seq, &c.seq});
}

TEST(BlockManager, EvictionForgetsTheHashAndTakesTheLeastRecentlyUsed) {
  BlockManager manager(4, 4, true);
  Holder a(range(0, 8)), b(range(100, 8)), c(range(200, 8));
  for (Holder* h : {&a, &b}) {
    manager.allocate(h->seq, nullptr);
    h->compute_all(manager);
    manager.deallocate(h->seq);
  }
  manager.allocate(c.seq, nullptr);  // evicts both blocks of a
  c.compute_all(manager);
  check(manager, {&c.seq});
  manager.deallocate(c.seq);
  manager.allocate(b.seq, nullptr);
  EXPECT_EQ(b.seq.num_computed_tokens, 4);  // still there
  manager.deallocate(b.seq);
  manager.allocate(a.seq, nullptr);
  EXPECT_EQ(a.seq.num_computed_tokens, 0);  // gone, and not found under a stale hash
  check(manager, {&a.seq});
}

TEST(BlockManager, OnlyComputedBlocksAreFound) {
  BlockManager manager(8, 4, true);
  Holder a(range(0, 9)), b(range(0, 9));
  manager.allocate(a.seq, nullptr);
  a.seq.num_computed_tokens = 5;  // a first chunk
  manager.hash_blocks(a.seq);
  manager.allocate(b.seq, nullptr);
  EXPECT_EQ(b.seq.num_computed_tokens, 4);
  check(manager, {&a.seq, &b.seq});
}

TEST(BlockManager, SiblingsShareWithoutPrefixCaching) {
  BlockManager manager(8, 4, false);
  Holder a(range(0, 8)), b(range(0, 8));
  manager.allocate(a.seq, nullptr);
  a.seq.num_computed_tokens = 8;
  EXPECT_TRUE(manager.can_allocate(b.seq, &a.seq, 0));
  manager.allocate(b.seq, &a.seq);
  EXPECT_EQ(b.seq.num_computed_tokens,
            4);  // the last token has to be computed again for its logits
  EXPECT_EQ(manager.num_used_blocks(), 3);
  check(manager, {&a.seq, &b.seq});
}

TEST(BlockManager, CanAllocateCountsWhatIsShared) {
  BlockManager manager(4, 4, true);
  Holder a(range(0, 12)), b(range(0, 13)), c(range(50, 13));
  manager.allocate(a.seq, nullptr);
  a.compute_all(manager);
  EXPECT_TRUE(manager.can_allocate(b.seq, nullptr, 0));  // three shared, one free
  EXPECT_FALSE(manager.can_allocate(b.seq, nullptr, 1));
  EXPECT_FALSE(manager.can_allocate(c.seq, nullptr, 0));
}

TEST(BlockManager, AppendTakesABlockOnlyAtItsBorder) {
  BlockManager manager(2, 2, true);
  Holder a({1, 2});
  manager.allocate(a.seq, nullptr);
  a.compute_all(manager);
  a.seq.token_ids.push_back(3);
  EXPECT_EQ(manager.may_append(a.seq), 0);
  EXPECT_EQ(a.seq.block_table.size(), 2u);
  a.seq.token_ids.push_back(4);
  EXPECT_EQ(manager.may_append(a.seq), 0);  // the last free slot, no block left
  EXPECT_EQ(a.seq.block_table.size(), 2u);
  check(manager, {&a.seq});
  a.seq.token_ids.push_back(5);
  EXPECT_EQ(manager.may_append(a.seq), -1);
  EXPECT_EQ(a.seq.block_table.size(), 2u);
}

TEST(BlockManager, DraftsTakeFreeBlocksAndGiveThemBack) {
  BlockManager manager(4, 4, true);
  Holder a(range(0, 4)), b(range(50, 4));
  manager.allocate(b.seq, nullptr);
  manager.allocate(a.seq, nullptr);
  a.compute_all(manager);
  a.seq.token_ids.push_back(4);
  EXPECT_EQ(manager.may_append(a.seq, 2), 2);  // in the newest token's block
  EXPECT_EQ(manager.num_used_blocks(), 3);
  EXPECT_EQ(manager.may_append(a.seq, 3), 3);  // fills it
  EXPECT_EQ(manager.num_used_blocks(), 3);
  EXPECT_EQ(manager.may_append(a.seq, 20), 7);  // the last free block, and no more
  EXPECT_EQ(manager.num_used_blocks(), 4);
  a.seq.num_computed_tokens = 5;  // none was right
  manager.trim(a.seq);
  EXPECT_EQ(a.seq.block_table.size(), 2u);
  check(manager, {&a.seq, &b.seq});
  EXPECT_EQ(manager.may_append(a.seq, 20), 7);
  a.seq.num_computed_tokens = 9;  // four were right
  for (int i = 5; i < 9; ++i) a.seq.token_ids.push_back(i);
  manager.hash_blocks(a.seq);
  manager.trim(a.seq);
  EXPECT_EQ(a.seq.block_table.size(), 3u);
  EXPECT_EQ(a.seq.num_hashed_blocks, 2);
  check(manager, {&a.seq, &b.seq});
  a.seq.num_computed_tokens = 8;  // up to a block's end: the next token's block is not held yet
  manager.trim(a.seq);
  EXPECT_EQ(a.seq.block_table.size(), 2u);
  manager.deallocate(a.seq);
  Holder c(range(0, 9));
  manager.allocate(c.seq, nullptr);
  EXPECT_EQ(c.seq.num_computed_tokens, 8);  // tokens that were guessed are found again
  check(manager, {&b.seq, &c.seq});
}

TEST(BlockManager, RandomOperationsKeepEveryInvariant) {
  std::mt19937 rng(7);
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
  for (int round = 0; round < 30; ++round) {
    const int block_size = pick(1, 5);
    BlockManager manager(pick(4, 24), block_size, pick(0, 3) != 0);
    std::vector<std::unique_ptr<Holder>> live;
    for (int i = 0; i < 300; ++i) {
      const int action = pick(0, 3);
      if (action == 0) {
        std::vector<int32_t> tokens;  // a tiny alphabet, so that prefixes meet
        for (int n = pick(1, 12); n > 0; --n) tokens.push_back(pick(0, 1));
        auto holder = std::make_unique<Holder>(tokens, pick(0, 1));
        if (manager.can_allocate(holder->seq, nullptr, 0)) {
          manager.allocate(holder->seq, nullptr);
          live.push_back(std::move(holder));
        }
      } else if (!live.empty()) {
        const size_t k = pick(0, static_cast<int>(live.size()) - 1);
        Sequence& seq = live[k]->seq;
        if (action == 1) {
          manager.deallocate(seq);
          live.erase(live.begin() + static_cast<std::ptrdiff_t>(k));
        } else if (action == 2 && seq.num_uncomputed_tokens() > 0) {
          seq.num_computed_tokens += pick(1, static_cast<int>(seq.num_uncomputed_tokens()));
          manager.hash_blocks(seq);
        } else if (seq.num_uncomputed_tokens() == 0) {
          seq.token_ids.push_back(pick(0, 1));
          const int wanted = pick(0, 6), drafts = static_cast<int>(manager.may_append(seq, wanted));
          if (drafts < 0) {
            seq.token_ids.pop_back();
          } else {  // so many of the drafts are right
            const int right = pick(0, drafts);
            for (int r = 0; r < right; ++r) seq.token_ids.push_back(pick(0, 1));
            seq.num_computed_tokens += right;
            manager.hash_blocks(seq);
            manager.trim(seq);
            manager.may_append(seq);  // the newest token is computed next
          }
        }
      }
      std::vector<Sequence*> holders;
      for (auto& h : live) holders.push_back(&h->seq);
      manager.check_integrity(holders);
    }
    for (auto& h : live) manager.deallocate(h->seq);
    EXPECT_EQ(manager.num_used_blocks(), 0);
  }
}

}  // namespace
}  // namespace nanovllm
