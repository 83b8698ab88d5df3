// rope_and_store_kv and attention against plain loops in double, and their promise: a token's
// output has the same bits however its sequence is cut into steps, whatever shares the batch,
// whatever the block size.
#include <unistd.h>

#include <fstream>

#include "attention_world.h"
#include "backend_test_util.h"

namespace nanovllm {
namespace {

using Shape = AttentionShape;
using World = AttentionWorld;

// Runs all sequences on the CPU backend.
Outputs run(const World& w, const KernelTable& kernels, int threads, int block_size, int budget,
            uint32_t seed) {
  const Shape& s = w.shape;
  CpuBackend backend(kernels, threads);
  const auto allocate = [&](const KVCacheShape& shape) { backend.allocate_kv_cache(shape); };
  return run_in_steps(
      w, block_size, budget, seed, allocate,
      [&](const Batch& batch, int layer, std::vector<float> qkv) {
        std::vector<float> out(
            static_cast<size_t>(int64_t{batch.num_tokens()} * s.num_heads * s.head_dim), NAN);
        backend.rope_and_store_kv(
            {layer, s.num_heads, s.num_kv_heads, s.head_dim, s.rotary_dim,
             s.norm ? w.q_norm.data() : nullptr, s.norm ? w.k_norm.data() : nullptr, 1e-6f,
             w.cos_sin.data(), s.interleaved},
            batch, qkv.data());
        backend.attention(
            {layer, s.num_heads, 1 / std::sqrt(static_cast<float>(s.head_dim)), s.window}, batch,
            qkv.data(), out.data());
        return out;
      });
}

void expect_same(const Outputs& got, const Outputs& want, const std::string& what) {
  for (size_t q = 0; q < want.size(); ++q)
    EXPECT_TRUE(same_bits(got[q], want[q])) << what << ", sequence " << q;
}

// Head sizes that fill panels and that do not; one to eight query heads a kv head, and more than a
// tile has rows; windows within a segment, of a segment and beyond.
std::vector<Shape> shapes() {
  return {
      {2, 2, 64, 64},
      {9, 3, 64, 64, true, false, 0, KVType::kBFloat16},
      {4, 1, 10, 10, false, true},
      {6, 2, 24, 12, true, true, 5},
      {5, 5, 17, 16, false, false, 70, KVType::kBFloat16},
      {100, 1, 8, 8, false, false, 1},
      {2, 1, 100, 60, false, false, 64},
      {4, 2, 128, 128, false, true, 0, KVType::kBFloat16},
      {8, 1, 16, 16, false, false, 300, KVType::kBFloat16},
      {7, 1, 80, 32, false, false, 0, KVType::kBFloat16},
      {3, 1, 256, 256, false, false, 256, KVType::kBFloat16},
      {4, 2, 128, 128, false, true, 0, KVType::kInt8},
      {6, 1, 18, 18, false, false, 100, KVType::kInt8},
      {2, 2, 81, 32, true, false, 0, KVType::kInt8},
  };
}

// A key that falls to the other side of a rounding weighs 2^-9 in bfloat16, 1 / 254 in int8.
double tolerance(KVType type) {
  return type == KVType::kFloat32 ? 1e-5 : type == KVType::kBFloat16 ? 5e-3 : 2e-2;
}

TEST(Attention, EqualsAPlainLoop) {
  for (const Shape& shape : shapes()) {
    const World w(shape, {1, 7, 64, 65, 300}, 31);
    const Outputs want = oracle(w);
    const Outputs got = run(w, *all_kernels().front(), 2, 16, 1000, 1);
    for (size_t q = 0; q < want.size(); ++q)
      for (size_t i = 0; i < want[q].size(); ++i)
        ASSERT_NEAR(got[q][i], want[q][i], tolerance(shape.type))
            << shape.head_dim << " " << q << " " << i;
  }
}

TEST(Attention, SameBitsForAnyBatchChunksBlocksAndThreads) {
  const KernelTable& kernels = *all_kernels().front();
  for (const Shape& shape : shapes()) {
    const World w(shape, {1, 7, 65, kFewCases ? 270 : 530}, 32);
    const Outputs want = run(w, kernels, 1, 16, 1000, 1);
    uint32_t seed = 2;
    for (const int block_size : {1, 3, 16, 40, 64, 256}) {
      for (const int budget : {1, 9, 64, 600}) {
        if (budget == 1 && block_size != 16) continue;  // token by token is slow
        if (kFewCases && (block_size != 3 || budget != 9)) continue;
        const int threads = 1 + static_cast<int>(seed % 4);
        expect_same(run(w, kernels, threads, block_size, budget, seed++), want,
                    "head_dim " + std::to_string(shape.head_dim) + " block size " +
                        std::to_string(block_size) + " budget " + std::to_string(budget));
      }
    }
  }
}

TEST(Attention, SameBitsOnEveryInstructionSet) {
  for (const Shape& shape : shapes()) {
    const World w(shape, {3, 290}, 37);  // the plain and the emulated ones are slow
    const Outputs want = run(w, *all_kernels().front(), 1, 16, 1000, 1);
    for (const KernelTable* kernels : all_kernels()) {
      const std::string what =
          std::string(kernels->name) + " head_dim " + std::to_string(shape.head_dim);
      expect_same(run(w, *kernels, 2, 16, 300, 2), want, what);
      expect_same(run(w, *kernels, 1, 3, 45, 3), want, what + " blocks of 3");
    }
  }
}

// One long sequence decoded on many threads: its keys are cut into segments, and where they are one
// segment only, the kv heads are shared out.
TEST(Attention, SameBitsHoweverKeysAreSharedOut) {
  for (const Shape& shape :
       {Shape{8, 4, 32, 32, false, false, 0, KVType::kBFloat16},
        Shape{18, 18, 20, 20, false, false, 700, KVType::kInt8}, Shape{16, 1, 12, 12}}) {
    const World w(shape, {800, 30}, 35);
    const Outputs want = run(w, *all_kernels().front(), 1, 16, 5000, 1);
    for (const int threads : {1, 2, 3, 8})
      expect_same(run(w, *all_kernels().front(), threads, 16, 7, 2), want,
                  std::to_string(threads) + " threads");
  }
}

// int8 keeps a head's largest element to 2^-24, and every element to half a step of 1 / 127 of it.
TEST(Attention, Int8KeepsAHeadToHalfAStep) {
  for (const int dim : {7, 16, 64, 100}) {
    const Shape shape = {1, 1, dim, 0, false, false, 0, KVType::kInt8};
    World w(shape, {1}, 36);  // one key: the output is its value
    if (dim == 16) std::fill(w.qkv[0].begin(), w.qkv[0].end(), 0.0f);
    for (const KernelTable* kernels : all_kernels()) {
      const Outputs got = run(w, *kernels, 1, 16, 1, 1);
      const float* value = &w.qkv[0][2 * dim];
      float largest = 0;
      for (int d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(value[d]));
      for (int d = 0; d < dim; ++d) {
        EXPECT_NEAR(got[0][d], value[d], largest / 127 * 0.5001) << kernels->name;
        if (std::fabs(value[d]) == largest) {
          EXPECT_NEAR(got[0][d], value[d], largest * 2e-7);
        }
      }
    }
  }
}

// Whatever lies in slots that a row may not see, not-a-numbers included, changes no bit of it.
TEST(Attention, IgnoresWhatItMayNotSee) {
  const Shape shape = {2, 1, 20, 20};
  for (const KernelTable* kernels : all_kernels()) {
    std::vector<std::vector<float>> results;
    for (const float garbage : {0.0f, NAN, INFINITY}) {
      CpuBackend backend(*kernels, 1);
      backend.allocate_kv_cache({1, 4, 16, 1, 20, KVType::kFloat32});
      World w(shape, {64}, 33);
      Batch all;  // fills every slot with garbage
      all.block_size = 16;
      std::vector<float> junk(static_cast<size_t>(64 * shape.row()), garbage);
      std::vector<float> cos_sin(static_cast<size_t>(64) * 20, 1.0f);
      for (int i = 0; i < 64; ++i) {
        all.token_ids.push_back(0);
        all.positions.push_back(i);
        all.slot_mapping.push_back(i);
      }
      backend.rope_and_store_kv({0, 2, 1, 20, 20, nullptr, nullptr, 0, cos_sin.data(), false}, all,
                                junk.data());
      Batch batch;  // 21 tokens in blocks 2 and 0
      batch.block_size = 16;
      batch.block_table_stride = 3;
      batch.block_tables = {2, 0, -1};
      batch.query_start = {0, 21};
      batch.context_lens = {21};
      for (int i = 0; i < 21; ++i) {
        batch.token_ids.push_back(0);
        batch.positions.push_back(i);
        batch.slot_mapping.push_back(i < 16 ? 32 + i : i - 16);
      }
      std::vector<float> qkv(w.qkv[0].begin(), w.qkv[0].begin() + 21 * shape.row()),
          out(21 * 40, -1.0f);
      backend.rope_and_store_kv({0, 2, 1, 20, 20, nullptr, nullptr, 0, w.cos_sin.data(), false},
                                batch, qkv.data());
      backend.attention({0, 2, 0.2f, 0}, batch, qkv.data(), out.data());
      for (const float v : out) ASSERT_TRUE(std::isfinite(v));
      results.push_back(out);
    }
    EXPECT_TRUE(same_bits(results[0], results[1]));
    EXPECT_TRUE(same_bits(results[0], results[2]));
  }
}

// Scores of any size: weights far below the largest vanish, none overflows.
TEST(Attention, LargeScoresAndLongContexts) {
  Shape shape = {1, 1, 16, 16};
  World w(shape, {3000}, 34);
  for (float& v : w.qkv[0]) v *= 30;
  const Outputs want = oracle(w), got = run(w, *all_kernels().front(), 2, 16, 700, 5);
  for (size_t i = 0; i < want[0].size(); ++i) ASSERT_NEAR(got[0][i], want[0][i], 2e-2) << i;
  expect_same(run(w, *all_kernels().front(), 1, 1, 3000, 6), got, "long");
}

int64_t resident_bytes() {
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

TEST(KVCache, CostsItsBytesOnlyWhenUsed) {
  CpuBackend backend(*all_kernels().front(), 1);
  const KVCacheShape shape = {30, 1000, 16, 3, 64, KVType::kBFloat16};
  EXPECT_EQ(backend.kv_cache_bytes(shape), int64_t{30} * 1000 * 16 * 3 * 64 * 2 * 2);
  KVCacheShape int8 = shape;  // with a float for the scale of a head
  int8.type = KVType::kInt8;
  EXPECT_EQ(backend.kv_cache_bytes(int8), int64_t{30} * 1000 * 16 * 3 * (64 + 4) * 2);
  EXPECT_THROW(backend.kv_cache_bytes({1 << 20, int64_t{1} << 40, 1 << 20, 1 << 20, 1 << 20}),
               std::exception);

  const int64_t before = resident_bytes();
  backend.allocate_kv_cache(shape);
  Batch batch;  // one token, in the first block
  batch.block_size = 16;
  batch.block_table_stride = 1;
  batch.token_ids = batch.positions = batch.slot_mapping = batch.block_tables = {0};
  batch.query_start = {0, 1};
  batch.context_lens = {1};
  std::vector<float> qkv((9 + 2 * 3) * 64), cos_sin(64);
  for (int layer = 0; layer < 30; ++layer)
    backend.rope_and_store_kv({layer, 9, 3, 64, 64, nullptr, nullptr, 0, cos_sin.data(), false},
                              batch, qkv.data());
  EXPECT_LT(resident_bytes() - before, 4 << 20);
}

}  // namespace
}  // namespace nanovllm
