// rope_and_store_kv and attention against the definition in double, however the sequences are cut
// into steps, in float32 and in bfloat16.
#include "backend/attention_world.h"
#include "cuda_test_util.h"

namespace nanovllm {
namespace {

// The sequences in steps on the GPU, their activations in float32 or bfloat16.
Outputs run(const AttentionWorld& w, bool float32, int block_size, int budget, uint32_t seed,
            int decode_from = -1, bool eager = true) {
  const AttentionShape& s = w.shape;
  Device device(float32, eager);
  const int64_t out_row = int64_t{s.num_heads} * s.head_dim;
  float* const qkv = device.space(Device::kLimits.max_tokens * s.row());
  float* const out = device.space(Device::kLimits.max_tokens * out_row);
  const Backend::RopeParams rope = {.num_heads = s.num_heads,
                                    .num_kv_heads = s.num_kv_heads,
                                    .head_dim = s.head_dim,
                                    .rotary_dim = s.rotary_dim,
                                    .q_norm = s.norm ? device.constants(w.q_norm) : nullptr,
                                    .k_norm = s.norm ? device.constants(w.k_norm) : nullptr,
                                    .norm_eps = 1e-6f,
                                    .cos_sin = device.constants(w.cos_sin),
                                    .interleaved = s.interleaved};
  const AttentionParams attention = {.num_heads = s.num_heads,
                                     .scale = 1 / std::sqrt(static_cast<float>(s.head_dim)),
                                     .sliding_window = s.window};
  return run_in_steps(
      w, block_size, budget, seed,
      [&](const KVCacheShape& shape) { device.backend->allocate_kv_cache(shape); },
      [&](const Batch& batch, int layer, const std::vector<float>& values) {
        write_activations(values, float32, qkv);
        device.backend->run(batch, [&](const Batch& b) {
          Backend::RopeParams r = rope;
          AttentionParams a = attention;
          r.layer = a.layer = layer;
          device.backend->rope_and_store_kv(r, b, qkv);
          device.backend->attention(a, b, qkv, out);
          return true;
        });
        return device.read(out, batch.num_tokens() * out_row);
      },
      decode_from);
}

AttentionWorld make_world(const AttentionShape& shape, std::vector<int> lengths, bool float32,
                          uint32_t seed) {
  AttentionWorld w(shape, std::move(lengths), seed);
  for (auto& rows : w.qkv) rows = rounded(rows, float32);
  return w;
}

// bfloat16 rounds queries, weights and outputs to 2^-9.
void expect_close(const Outputs& got, const Outputs& want, double each, double mean,
                  const std::string& what) {
  double sum = 0;
  int64_t count = 0;
  for (size_t q = 0; q < want.size(); ++q) {
    for (size_t i = 0; i < want[q].size(); ++i, ++count) {
      ASSERT_NEAR(got[q][i], want[q][i], each * std::max(1.0, std::fabs(double{want[q][i]})))
          << what << ", sequence " << q << ", element " << i;
      sum += std::fabs(double{got[q][i]} - want[q][i]);
    }
  }
  EXPECT_LT(sum / static_cast<double>(count), mean) << what;
}

std::string describe(const AttentionShape& s) {
  return std::to_string(s.num_heads) + " heads over " + std::to_string(s.num_kv_heads) + " x " +
         std::to_string(s.head_dim) + ", window " + std::to_string(s.window);
}

TEST(CudaAttention, EqualsAPlainLoopInFloat32) {
  for (const AttentionShape& shape :
       std::vector<AttentionShape>{{2, 2, 64, 64},
                                   {9, 3, 64, 64, true, false, 0, KVType::kBFloat16},
                                   {4, 1, 10, 10, false, true},
                                   {6, 2, 24, 12, true, true, 5},
                                   {5, 5, 17, 16, false, false, 70, KVType::kBFloat16},
                                   {3, 1, 256, 256, false, false, 40},
                                   {4, 2, 128, 128, false, true}}) {
    const AttentionWorld w = make_world(shape, {1, 7, 40, 70}, true, 51);
    const double each = shape.type == KVType::kBFloat16 ? 5e-3 : 2e-5;
    expect_close(run(w, true, shape.norm ? 16 : 5, 50, 1), oracle(w), each, 1e-3, describe(shape));
  }
}

TEST(CudaAttention, EqualsAPlainLoopInBFloat16) {
  for (const AttentionShape& shape :
       std::vector<AttentionShape>{{4, 2, 18, 18, false, true, 0, KVType::kFloat32},
                                   {5, 1, 10, 10, true, false, 9, KVType::kBFloat16},
                                   {2, 2, 64, 64, false, false, 0, KVType::kBFloat16},
                                   {3, 1, 64, 32, false, true, 70, KVType::kBFloat16},
                                   {5, 1, 80, 80, true, false, 0, KVType::kBFloat16},
                                   {4, 2, 96, 96, false, false, 33, KVType::kBFloat16},
                                   {8, 1, 128, 128, false, true, 0, KVType::kBFloat16},
                                   {20, 1, 64, 64, false, false, 0, KVType::kBFloat16}}) {
    const AttentionWorld w = make_world(shape, {1, 7, 64, 150}, false, 52);
    expect_close(run(w, false, 16, 1000, 1), oracle(w), 3e-2, 3e-3, describe(shape));
    if (shape.window > 0 || shape.norm)
      expect_close(run(w, false, 3, 80, 2), oracle(w), 3e-2, 3e-3, describe(shape) + ", in pieces");
  }
}

// Decoding beside prompts, with keys split over blocks and not, alone and many, with graphs (whose
// batches are padded) and without: bit for bit the same.
TEST(CudaAttention, DecodesAsAPlainLoop) {
  for (const AttentionShape& shape :
       std::vector<AttentionShape>{{2, 2, 64, 64, false, false, 0, KVType::kBFloat16},
                                   {6, 2, 128, 128, false, true, 50, KVType::kBFloat16},
                                   {20, 1, 64, 64, false, false, 0, KVType::kBFloat16}}) {
    AttentionWorld w = make_world(shape, {90, 1, 40, 17, 16, 100, 33}, false, 53);
    const Outputs many = run(w, false, 16, 130, 3, 30);
    expect_close(many, oracle(w), 3e-2, 3e-3, describe(shape));
    w = make_world(shape, {140}, false, 54);
    expect_close(run(w, false, 7, 120, 4, 110), oracle(w), 3e-2, 3e-3, describe(shape));
  }
}

}  // namespace
}  // namespace nanovllm
