// The sampler against a plain oracle that does sort the vocabulary.

#include "sampling/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "sampling/request_sampling.h"

namespace nanovllm {
namespace {

struct Fixture {
  explicit Fixture(SamplingParams params_, std::vector<int32_t> prompt = {0},
                   std::vector<int32_t> output = {}, std::vector<int32_t> eos_ = {})
      : params(std::move(params_)),
        num_prompt_tokens(std::ssize(prompt)),
        tokens(std::move(prompt)),
        eos(std::move(eos_)) {
    tokens.insert(tokens.end(), output.begin(), output.end());
  }
  // The token after all of them.
  int32_t sample(Sampler& sampler, std::span<float> logits) const {
    const RequestSampling sampling(params, seed, num_prompt_tokens, eos);
    return sampler.sample(sampling.row(tokens, index, 0), logits);
  }
  SamplingParams params;
  int64_t num_prompt_tokens;
  std::vector<int32_t> tokens, eos;
  uint64_t seed = 1;
  int index = 0;
};

std::vector<float> random_logits(std::mt19937& rng, int n, bool with_ties) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(n);
  for (float& x : logits) x = with_ties ? std::round(normal(rng)) : normal(rng);
  return logits;
}

// The probabilities vLLM's order of steps gives: temperature, min_p, top_k, top_p; ties in top_p go
// to smaller ids.
std::map<int32_t, double> oracle(const std::vector<float>& logits, const SamplingParams& p) {
  std::vector<std::pair<double, int32_t>> order;
  for (size_t i = 0; i < logits.size(); ++i)
    order.emplace_back(logits[i] / p.temperature, static_cast<int32_t>(i));
  std::sort(order.begin(), order.end(), [](auto& a, auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  const double max = order[0].first;
  if (p.min_p > 0) std::erase_if(order, [&](auto& x) { return std::exp(x.first - max) < p.min_p; });
  if (p.top_k > 0 && p.top_k < static_cast<int64_t>(order.size())) {
    const double kth = order[p.top_k - 1].first;
    std::erase_if(order, [&](auto& x) { return x.first < kth; });
  }
  double total = 0, mass = 0;
  for (auto& [value, id] : order) total += std::exp(value - max);
  std::map<int32_t, double> kept;
  for (auto& [value, id] : order) {
    if (mass >= p.top_p * total) break;
    mass += kept[id] = std::exp(value - max);
  }
  for (auto& [id, weight] : kept) weight /= mass;
  return kept;
}

TEST(Sampler, DrawsFromTheRightDistribution) {
  std::mt19937 rng(3);
  for (int trial = 0; trial < 40; ++trial) {
    SamplingParams params;
    params.temperature = 0.3 + 0.1 * static_cast<double>(rng() % 20);
    if (rng() % 2) params.top_k = 1 + static_cast<int64_t>(rng() % 30);
    if (rng() % 2) params.top_p = 0.05 + 0.9 * static_cast<double>(rng() % 100) / 100;
    if (rng() % 3 == 0) params.min_p = 0.05;
    const int vocab = 40 + static_cast<int>(rng() % 60);
    auto logits = random_logits(rng, vocab, trial % 2);
    const auto expected = oracle(logits, params);
    Sampler sampler(vocab);
    std::map<int32_t, int> counts;
    const int draws = 4000;
    for (int i = 0; i < draws; ++i) {
      Fixture f(params);
      f.seed = i;
      ++counts[f.sample(sampler, logits)];
    }
    for (const auto& [id, count] : counts)
      ASSERT_TRUE(expected.count(id)) << "drew " << id << " in trial " << trial;
    for (const auto& [id, probability] : expected) {
      const double sigma = std::sqrt(draws * probability * (1 - probability));
      ASSERT_NEAR(counts[id], draws * probability, 5 * sigma + 1)
          << "token " << id << " in trial " << trial;
    }
  }
}

TEST(Sampler, DrawDependsOnSeedIndexAndPositionOnly) {
  std::mt19937 rng(5);
  auto logits = random_logits(rng, 100, false);
  Sampler a(100), b(100);
  int differing = 0;
  for (int i = 0; i < 50; ++i) {
    Fixture f({}), g({}), h({});
    f.seed = g.seed = h.seed = i;
    h.index = 1;
    const int32_t token = f.sample(a, logits);
    auto others = random_logits(rng, 100, true);
    h.sample(b, others);  // another history
    EXPECT_EQ(g.sample(b, logits), token);
    differing += h.sample(a, logits) != token;
  }
  EXPECT_GT(differing, 25);
}

TEST(Sampler, GreedyTakesTheFirstOfEquals) {
  Sampler sampler(4);
  std::vector<float> logits = {1, 3, 3, 2};
  EXPECT_EQ(Fixture({.temperature = 0}).sample(sampler, logits), 1);
}

TEST(Sampler, PenaltiesFollowTheirFormulas) {
  // Output 1 twice; prompt 2. Logits chosen so that each penalty decides.
  std::vector<float> logits = {1.0f, 2.0f, 1.9f, -1.0f};
  Sampler sampler(4);
  auto greedy = [&](SamplingParams p) {
    p.temperature = 0;
    return Fixture(p, {2}, {1, 1}).sample(sampler, logits);
  };
  EXPECT_EQ(greedy({}), 1);
  EXPECT_EQ(greedy({.presence_penalty = 0.2}), 2);    // 2.0 - 0.2 < 1.9, the prompt does not count
  EXPECT_EQ(greedy({.frequency_penalty = 0.06}), 2);  // 2.0 - 2 * 0.06 < 1.9
  EXPECT_EQ(greedy({.frequency_penalty = 0.04}), 1);  // 2.0 - 2 * 0.04 > 1.9
  EXPECT_EQ(greedy({.repetition_penalty = 2.1}), 0);  // 2.0 / 2.1 and 1.9 / 2.1 < 1.0
  EXPECT_EQ(greedy({.logit_bias = {{3, 10.0}}}), 3);
  EXPECT_EQ(greedy({}), 1);  // nothing is left behind
}

TEST(Sampler, LeavesTheLogitsAsTheyWere) {
  std::mt19937 rng(7);
  Sampler sampler(100);
  for (int trial = 0; trial < 20; ++trial) {
    auto logits = random_logits(rng, 100, false);
    logits[3] = -INFINITY, logits[5] = -0.0f;
    const auto before = logits;
    SamplingParams p{.top_k = 10, .repetition_penalty = 1.7, .frequency_penalty = 0.3};
    p.min_tokens = 20, p.stop_token_ids = {3, 9, 9}, p.logit_bias = {{3, 5.0}, {9, -2.0}};
    Fixture(p, {3, 9, 50, 50}, {9, 5, 77, 77}, {4}).sample(sampler, logits);
    EXPECT_EQ(std::memcmp(logits.data(), before.data(), 400), 0);
  }
}

TEST(Sampler, MinTokensMasksEveryStop) {
  Sampler sampler(4);
  SamplingParams p{.temperature = 0, .min_tokens = 2};
  p.stop_token_ids = {2};
  std::vector<float> logits = {0, 1, 5, 9};
  EXPECT_EQ(Fixture(p, {0}, {0}, {3}).sample(sampler, logits), 1);
  EXPECT_EQ(Fixture(p, {0}, {0, 0}, {3}).sample(sampler, logits), 3);
}

// What only rows say: which tokens are allowed, the last word of the mask half in use.
TEST(Sampler, AllowedTokensOnly) {
  std::mt19937 rng(11);
  Sampler sampler(40);
  for (int trial = 0; trial < 50; ++trial) {
    auto logits = random_logits(rng, 40, false);
    const auto before = logits;
    const std::vector<uint32_t> allowed = {1u << 7 | 1u << 31, 1u << 2};
    SampleRow row{.temperature = trial % 2 ? 1.0 : 0.0, .seed = rng(), .allowed = allowed};
    const int32_t token = sampler.sample(row, logits);
    EXPECT_TRUE(token == 7 || token == 31 || token == 34) << token;
    if (trial % 2 == 0) {
      EXPECT_GE(logits[token], std::max({logits[7], logits[31], logits[34]}));
    }
    EXPECT_EQ(logits, before);
  }
}

TEST(RequestSampling, BiasesNameATokenTwiceAtMostAndThenOnceForNever) {
  SamplingParams p{.logit_bias = {{3, 5.0}, {9, -2.0}}, .min_tokens = 2};
  p.stop_token_ids = {3, 7, 7};
  const RequestSampling sampling(p, 1, 2, std::vector<int32_t>{7, 3, 8});
  const std::vector<int32_t> tokens = {1, 2, 5, 6};
  auto ids = [&](int64_t length) {
    std::vector<std::pair<int32_t, bool>> result;  // and whether it must not come
    for (const LogitBias& b : sampling.row(std::span(tokens).first(length), 0, 0).biases)
      result.emplace_back(b.token_id, std::isinf(b.bias));
    return result;
  };
  const std::vector<std::pair<int32_t, bool>> plain = {{3, false}, {9, false}}, all = {{3, false},
                                                                                       {9, false},
                                                                                       {3, true},
                                                                                       {7, true},
                                                                                       {8, true}};
  EXPECT_EQ(ids(2), all);
  EXPECT_EQ(ids(3), all);
  EXPECT_EQ(ids(4), plain);
}

TEST(Sampler, BrokenLogitsStillGiveAToken) {
  Sampler sampler(3);
  const float nan = std::nanf(""), inf = INFINITY;
  for (std::vector<float> logits :
       {std::vector<float>{nan, nan, nan}, {-inf, -inf, -inf}, {inf, 1, nan}})
    for (double temperature : {0.0, 1.0})
      for (int64_t top_k : {0, 2}) {
        const int32_t token = Fixture({.temperature = temperature, .top_k = top_k, .top_p = 0.5})
                                  .sample(sampler, logits);
        EXPECT_GE(token, 0);
        EXPECT_LT(token, 3);
      }
}

TEST(Sampler, LogprobsAreLogSoftmax) {
  std::mt19937 rng(9);
  for (bool ties : {false, true}) {
    auto logits = random_logits(rng, 200, ties);
    Sampler sampler(200);
    double sum = 0;
    for (float x : logits) sum += std::exp(static_cast<double>(x));
    std::vector<int32_t> order(200);
    for (int i = 0; i < 200; ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return logits[a] > logits[b]; });
    const auto result = sampler.logprobs(logits, 17, 20);
    ASSERT_EQ(result.size(), 21u);
    EXPECT_EQ(result[0].token_id, 17);
    EXPECT_EQ(result[0].rank, 1 + std::count_if(logits.begin(), logits.end(),
                                                [&](float x) { return x > logits[17]; }));
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(result[i + 1].token_id, order[i]);
      EXPECT_NEAR(result[i + 1].logprob, logits[order[i]] - std::log(sum), 1e-5);
    }
    EXPECT_EQ(sampler.logprobs(logits, 17, 0).size(), 1u);
  }
}

}  // namespace
}  // namespace nanovllm
