// The sampler's scans: against plain loops, and bit for bit between instruction sets.
#include "backend_test_util.h"

namespace nanovllm {
namespace {

// Logits with everything a broken model may hold.
std::vector<float> odd_logits(int64_t n, Random& random) {
  std::vector<float> x = random.normals(n);
  for (float& v : x) {
    v *= 10;
    switch (random.integer(0, 9)) {
      case 0:
        v = std::round(v);
        break;
      case 1:
        v = random.integer(0, 1) ? -INFINITY : NAN;
        break;
      case 2:
        v = -1e30f;
        break;
    }
  }
  return x;
}

float max_of(const std::vector<float>& x) {
  float max = -INFINITY;
  for (const float v : x) max = v > max ? v : max;
  return max;
}

TEST(Vocabulary, BlockMaximaAreMaxima) {
  Random random(31);
  for (const int64_t n : {1, 15, 64, 65, 128, 1000}) {
    std::vector<float> x = odd_logits(n, random);
    if (n == 1000) std::fill(x.begin() + 64, x.begin() + 128, NAN);
    for (const KernelTable* kernels : all_kernels()) {
      std::vector<float> got(static_cast<size_t>((n + 63) / 64), NAN);
      kernels->block_maxima(x.data(), n, got.data());
      for (int64_t b = 0; b * 64 < n; ++b)
        EXPECT_EQ(got[b], max_of({x.begin() + b * 64, x.begin() + std::min(n, b * 64 + 64)}))
            << kernels->name << " block " << b << " of " << n;
    }
  }
}

TEST(Vocabulary, WeightsAreExponentials) {
  Random random(32);
  for (const int64_t n : {1, 17, 64, 1000}) {
    const std::vector<float> x = odd_logits(n, random);
    const float max = std::max(max_of(x), -1e6f);
    for (const float inverse_temperature : {1.0f, 1e-9f, 1e5f, 0.0f}) {
      std::vector<float> want(x.size());
      kernels_scalar()->weights(x.data(), n, max, inverse_temperature, want.data());
      for (int64_t i = 0; i < n; ++i) {
        const float scaled = (x[i] - max) * inverse_temperature;
        const double exact = scaled >= -87.3f ? std::exp(double{scaled}) : 0.0;  // and for NaN
        ASSERT_NEAR(want[i], exact, 1e-6 * exact) << x[i];
      }
      for (const KernelTable* kernels : all_kernels()) {
        std::vector<float> got(x.size());
        kernels->weights(x.data(), n, max, inverse_temperature, got.data());
        EXPECT_TRUE(same_bits(got, want)) << kernels->name;
      }
    }
  }
}

TEST(Vocabulary, BlockSumsTakeWhatComesBeforeThePivot) {
  Random random(33);
  for (int trial = 0; trial < 200; ++trial) {
    const int64_t n = random.integer(1, 700);
    const std::vector<float> x = odd_logits(n, random);
    const int64_t pivot = random.integer(0, n);
    float floor = pivot < n ? x[pivot] : -INFINITY;
    if (std::isnan(floor)) floor = 0;
    std::vector<int32_t> blocks;
    for (int32_t b = 0; b * 64 < n; ++b)
      if (random.integer(0, 3)) blocks.push_back(b);
    const float max = std::max(max_of(x), -1e6f);
    BlockSumArgs args = {x.data(), n,     blocks.data(), static_cast<int64_t>(blocks.size()),
                         max,      0.25f, floor,         std::nextafter(floor, INFINITY),
                         pivot};
    std::vector<float> want(blocks.size());
    kernels_scalar()->block_sums(args, want.data());
    for (size_t i = 0; i < blocks.size(); ++i) {
      double sum = 0;
      for (int64_t j = blocks[i] * 64; j < std::min<int64_t>(n, blocks[i] * 64 + 64); ++j)
        if (x[j] > floor || (x[j] == floor && j < pivot))
          sum += x[j] < -1e20f ? 0.0 : std::exp((double{x[j]} - max) * 0.25);
      ASSERT_NEAR(want[i], sum, 4e-6 * sum + 1e-36);
    }
    for (const KernelTable* kernels : all_kernels()) {
      std::vector<float> got(blocks.size());
      kernels->block_sums(args, got.data());
      ASSERT_TRUE(same_bits(got, want)) << kernels->name << ", trial " << trial;
    }
  }
}

}  // namespace
}  // namespace nanovllm
