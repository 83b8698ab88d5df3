// Shards: every head, column and row belongs to exactly one rank (key/value heads to those that
// share one), cuts lie between blocks, and what cannot be cut is refused.
#include "model/shard.h"

#include <gtest/gtest.h>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

ModelConfig model(int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t mlp, int64_t vocab) {
  ModelConfig c;
  c.num_heads = heads;
  c.num_kv_heads = kv_heads;
  c.head_dim = head_dim;
  c.intermediate_size = mlp;
  c.vocab_size = vocab;
  c.hidden_size = 64;
  c.num_layers = 1;
  return c;
}

void expect_cover(const std::vector<Shard>& shards, Range Shard::*part, int64_t n) {
  int64_t next = 0;
  for (const Shard& s : shards) {
    EXPECT_EQ((s.*part).begin, next);
    EXPECT_GT((s.*part).size(), 0);
    EXPECT_LE((s.*part).size(), (shards[0].*part).size());
    next = (s.*part).end;
  }
  EXPECT_EQ(next, n);
}

TEST(Shard, EverythingBelongsToARank) {
  for (int64_t kv_heads = 1; kv_heads <= 6; ++kv_heads)
    for (int64_t group = 1; group <= 5; ++group)
      for (int64_t size = 1; size <= kv_heads * group; ++size) {
        SCOPED_TRACE(testing::Message() << kv_heads << " x " << group << " heads, " << size);
        const auto shards = make_shards(model(kv_heads * group, kv_heads, 8, 37, 101), {}, size);
        ASSERT_EQ(std::ssize(shards), size);
        expect_cover(shards, &Shard::heads, kv_heads * group);
        expect_cover(shards, &Shard::mlp, 37);
        expect_cover(shards, &Shard::vocab, 101);
        for (int64_t r = 0; r < size; ++r) {
          const Shard& s = shards[r];
          EXPECT_EQ(s.rank, r);
          // Each query head finds its key/value head here, where the backend looks for it.
          ASSERT_GT(s.kv_heads.size(), 0);
          ASSERT_EQ(s.heads.size() % s.kv_heads.size(), 0);
          const int64_t group_here = s.heads.size() / s.kv_heads.size();
          for (int64_t h = 0; h < s.heads.size(); ++h)
            EXPECT_EQ((s.heads.begin + h) / group, s.kv_heads.begin + h / group_here);
        }
      }
}

TEST(Shard, EvenWhereTheModelIs) {
  const auto qwen3 = make_shards(model(16, 8, 128, 3072, 151936), {}, 2);
  EXPECT_EQ(qwen3[1].heads, (Range{8, 16}));
  EXPECT_EQ(qwen3[1].kv_heads, (Range{4, 8}));
  EXPECT_EQ(qwen3[1].mlp, (Range{1536, 3072}));
  EXPECT_EQ(qwen3[1].vocab, (Range{75968, 151936}));
  const auto shared = make_shards(model(28, 4, 128, 18944, 152064), {}, 8);
  for (const Shard& s : shared) EXPECT_EQ(s.kv_heads.begin, s.rank / 2);
  EXPECT_EQ(shared[0].heads, (Range{0, 4}));
  EXPECT_EQ(shared[1].heads, (Range{4, 7}));
}

TEST(Shard, CutsBetweenBlocks) {
  // 256 columns are two heads of 128, or a key/value head.
  for (const int64_t size : {2, 3, 4, 8}) {
    for (const Shard& s : make_shards(model(16, 8, 128, 3072, 1000), {256, 256}, size)) {
      EXPECT_EQ(s.heads.begin * 128 % 256, 0);
      EXPECT_EQ(s.mlp.begin % 256, 0);
    }
  }
  // Four heads of 64 to a block, and so to a cut: two key/value heads, or a third of one.
  EXPECT_EQ(make_shards(model(16, 8, 64, 512, 100), {256, 256}, 2)[1].kv_heads, (Range{4, 8}));
  EXPECT_EQ(make_shards(model(12, 1, 64, 768, 100), {256, 256}, 3)[2].heads, (Range{8, 12}));
}

void expect_refused(const ModelConfig& c, const CutBlocks& blocks, int64_t size,
                    const std::string& why) {
  try {
    make_shards(c, blocks, size);
    ADD_FAILURE() << "not refused";
  } catch (const InvalidArgument& e) {
    EXPECT_EQ(e.where(), "--tensor-parallel-size");
    EXPECT_EQ(e.reason(), "is " + std::to_string(size) + ", but " + why);
  }
}

TEST(Shard, RefusesWhatCannotBeCut) {
  expect_refused(model(5, 1, 8, 37, 101), {}, 6, "the model has 5 attention heads");
  expect_refused(model(5, 5, 8, 4, 101), {}, 5, "its MLP of 4 columns cannot be cut into so many");
  expect_refused(model(5, 5, 8, 40, 4), {}, 5, "the model has a vocabulary of 4 tokens");
  expect_refused(model(8, 2, 64, 512, 100), {256, 256}, 4,
                 "its attention output weights are stored in blocks of 256 columns and cannot be "
                 "cut into so many between heads of 64");
  expect_refused(model(8, 8, 128, 512, 100), {256, 256}, 5,
                 "its attention output weights are stored in blocks of 256 columns and cannot be "
                 "cut into so many between heads of 128");
  expect_refused(model(8, 8, 256, 512, 100), {256, 256}, 3,
                 "its MLP of 512 columns, stored in blocks of 256, cannot be cut into so many");
}

}  // namespace
}  // namespace nanovllm
