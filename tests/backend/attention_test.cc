// rope_and_store_kv and attention against plain loops in double, and their promise: a token's
// output has the same bits however its sequence is cut into steps, whatever shares the batch,
// whatever the block size.
#include "backend_test_util.h"

namespace nanovllm {
namespace {

struct Shape {
  int num_heads, num_kv_heads, head_dim, rotary_dim;
  bool interleaved = false, norm = false;
  int64_t window = 0;
  KVType type = KVType::kFloat32;

  int64_t row() const { return (num_heads + 2 * int64_t{num_kv_heads}) * head_dim; }
};

// A few sequences of given lengths, their qkv rows before rope, and everything rope needs.
struct World {
  World(const Shape& s, std::vector<int> lengths_, uint32_t seed)
      : shape(s), lengths(std::move(lengths_)) {
    Random random(seed);
    int longest = 0;
    for (const int n : lengths) {
      qkv.push_back(random.normals(n * s.row()));
      longest = std::max(longest, n);
    }
    q_norm = random.normals(s.head_dim);
    k_norm = random.normals(s.head_dim);
    cos_sin.resize(static_cast<size_t>(longest) * s.rotary_dim);
    for (int p = 0; p < longest; ++p) {
      for (int i = 0; i < s.rotary_dim / 2; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / s.rotary_dim);
        cos_sin[p * s.rotary_dim + i] = static_cast<float>(std::cos(angle));
        cos_sin[p * s.rotary_dim + s.rotary_dim / 2 + i] = static_cast<float>(std::sin(angle));
      }
    }
  }

  Shape shape;
  std::vector<int> lengths;
  std::vector<std::vector<float>> qkv;
  std::vector<float> q_norm, k_norm, cos_sin;
};

using Outputs = std::vector<std::vector<float>>;  // one a sequence: [length, num_heads * head_dim]

// What the cache keeps of a head.
void round_as_cached(KVType type, double* x, int dim) {
  double largest = 0;
  for (int d = 0; d < dim; ++d) largest = std::max(largest, std::fabs(x[d]));
  for (int d = 0; d < dim; ++d) {
    if (type == KVType::kBFloat16)
      x[d] = double{bfloat16_to_float(float_to_bfloat16(static_cast<float>(x[d])))};
    if (type == KVType::kInt8 && largest > 0)
      x[d] = std::nearbyint(x[d] / largest * 127) * largest / 127;
  }
}

// The definition, in double.
Outputs oracle(const World& w) {
  const Shape& s = w.shape;
  const int dim = s.head_dim, group = s.num_heads / s.num_kv_heads;
  Outputs outputs;
  for (size_t q = 0; q < w.lengths.size(); ++q) {
    const int length = w.lengths[q];
    std::vector<double> x(w.qkv[q].begin(), w.qkv[q].end());
    for (int p = 0; p < length; ++p) {
      for (int h = 0; h < s.num_heads + s.num_kv_heads; ++h) {
        double* head = &x[p * s.row() + h * dim];
        if (s.norm) {
          const std::vector<float>& weight = h < s.num_heads ? w.q_norm : w.k_norm;
          double sum = 0;
          for (int d = 0; d < dim; ++d) sum += head[d] * head[d];
          for (int d = 0; d < dim; ++d) head[d] = head[d] / std::sqrt(sum / dim + 1e-6) * weight[d];
        }
        const int half = s.rotary_dim / 2;
        for (int i = 0; i < half; ++i) {
          double& a = head[s.interleaved ? 2 * i : i];
          double& b = head[s.interleaved ? 2 * i + 1 : i + half];
          const double c = w.cos_sin[p * s.rotary_dim + i],
                       sn = w.cos_sin[p * s.rotary_dim + half + i];
          const double a0 = a, b0 = b;
          a = a0 * c - b0 * sn;
          b = b0 * c + a0 * sn;
        }
      }
    }
    for (int p = 0; p < length; ++p)
      for (int h = s.num_heads; h < s.num_heads + 2 * s.num_kv_heads; ++h)
        round_as_cached(s.type, &x[p * s.row() + h * dim], dim);
    std::vector<float> out(static_cast<size_t>(length) * s.num_heads * dim);
    for (int p = 0; p < length; ++p) {
      for (int h = 0; h < s.num_heads; ++h) {
        const int first = s.window && p >= s.window ? static_cast<int>(p - s.window + 1) : 0;
        std::vector<double> weights;
        double largest = -INFINITY, sum = 0;
        for (int j = first; j <= p; ++j) {
          double dot = 0;
          for (int d = 0; d < dim; ++d)
            dot +=
                x[p * s.row() + h * dim + d] * x[j * s.row() + (s.num_heads + h / group) * dim + d];
          weights.push_back(dot / std::sqrt(dim));
          largest = std::max(largest, weights.back());
        }
        for (double& v : weights) sum += v = std::exp(v - largest);
        for (int d = 0; d < dim; ++d) {
          double o = 0;
          for (int j = first; j <= p; ++j)
            o += weights[j - first] / sum *
                 x[j * s.row() + (s.num_heads + s.num_kv_heads + h / group) * dim + d];
          out[(p * s.num_heads + h) * dim + d] = static_cast<float>(o);
        }
      }
    }
    outputs.push_back(out);
  }
  return outputs;
}

// Runs all sequences through two layers of cache in steps of at most `budget` tokens, in an order
// and with chunk sizes drawn from `seed`; blocks are handed out in random order.
Outputs run(const World& w, const KernelTable& kernels, int threads, int block_size, int budget,
            uint32_t seed) {
  const Shape& s = w.shape;
  Random random(seed);
  CpuBackend backend(kernels, threads);
  int64_t num_blocks = 0;
  for (const int n : w.lengths) num_blocks += (n + block_size - 1) / block_size;
  backend.allocate_kv_cache({2, num_blocks, block_size, s.num_kv_heads, s.head_dim, s.type});
  std::vector<int32_t> free(static_cast<size_t>(num_blocks));
  for (size_t i = 0; i < free.size(); ++i) free[i] = static_cast<int32_t>(i);
  std::shuffle(free.begin(), free.end(), std::mt19937(seed));

  const int64_t out_row = int64_t{s.num_heads} * s.head_dim;
  std::vector<int> done(w.lengths.size(), 0);
  std::vector<std::vector<int32_t>> tables(w.lengths.size());
  Outputs outputs;
  for (const int n : w.lengths) outputs.emplace_back(static_cast<size_t>(n * out_row));
  while (true) {
    std::vector<size_t> order;
    for (size_t q = 0; q < done.size(); ++q)
      if (done[q] < w.lengths[q]) order.push_back(q);
    if (order.empty()) break;
    std::shuffle(order.begin(), order.end(),
                 std::mt19937(static_cast<uint32_t>(random.integer(0, 1 << 30))));
    Batch batch;
    batch.block_size = block_size;
    batch.query_start = {0};
    std::vector<float> qkv;
    std::vector<size_t> members;
    int left = budget;
    for (const size_t q : order) {
      const int take = static_cast<int>(std::min<int64_t>(
          w.lengths[q] - done[q], std::min<int64_t>(left, random.integer(1, budget))));
      if (take == 0) continue;
      left -= take;
      members.push_back(q);
      for (int p = done[q]; p < done[q] + take; ++p) {
        if (p % block_size == 0) {
          tables[q].push_back(free.back());
          free.pop_back();
        }
        batch.token_ids.push_back(0);
        batch.positions.push_back(p);
        batch.slot_mapping.push_back(tables[q][p / block_size] * block_size + p % block_size);
        qkv.insert(qkv.end(), w.qkv[q].begin() + p * s.row(), w.qkv[q].begin() + (p + 1) * s.row());
      }
      done[q] += take;
      batch.query_start.push_back(batch.num_tokens());
      batch.context_lens.push_back(done[q]);
      batch.block_table_stride =
          std::max(batch.block_table_stride, static_cast<int32_t>(tables[q].size()));
    }
    for (const size_t q : members) {
      for (int32_t b = 0; b < batch.block_table_stride; ++b)
        batch.block_tables.push_back(b < static_cast<int32_t>(tables[q].size()) ? tables[q][b]
                                                                                : -1);
    }
    std::vector<float> out(static_cast<size_t>(batch.num_tokens() * out_row), NAN);
    for (const int layer : {1, 0}) {  // layer 1 last written by other values would show
      std::vector<float> copy = qkv;
      if (layer == 1)
        for (float& v : copy) v = -v + 1;
      backend.rope_and_store_kv(
          {layer, s.num_heads, s.num_kv_heads, s.head_dim, s.rotary_dim,
           s.norm ? w.q_norm.data() : nullptr, s.norm ? w.k_norm.data() : nullptr, 1e-6f,
           w.cos_sin.data(), s.interleaved},
          batch, copy.data());
      backend.attention(
          {layer, s.num_heads, 1 / std::sqrt(static_cast<float>(s.head_dim)), s.window}, batch,
          copy.data(), out.data());
    }
    for (size_t m = 0; m < members.size(); ++m) {
      const int32_t begin = batch.query_start[m], count = batch.query_start[m + 1] - begin;
      std::copy_n(out.begin() + begin * out_row, count * out_row,
                  outputs[members[m]].begin() + (done[members[m]] - count) * out_row);
    }
  }
  return outputs;
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

TEST(KVCache, CostsItsBytesOnlyWhenUsed) {
  CpuBackend backend(*all_kernels().front(), 1);
  const KVCacheShape shape = {30, 1000, 16, 3, 64, KVType::kBFloat16};
  EXPECT_EQ(backend.kv_cache_bytes(shape), int64_t{30} * 1000 * 16 * 3 * 64 * 2 * 2);
  KVCacheShape int8 = shape;  // with a float for the scale of a head
  int8.type = KVType::kInt8;
  EXPECT_EQ(backend.kv_cache_bytes(int8), int64_t{30} * 1000 * 16 * 3 * (64 + 4) * 2);
  EXPECT_THROW(backend.kv_cache_bytes({1 << 20, int64_t{1} << 40, 1 << 20, 1 << 20, 1 << 20}),
               std::exception);
}

}  // namespace
}  // namespace nanovllm
