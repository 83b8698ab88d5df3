// Selecting and drawing against plain code that sorts the whole vocabulary, in double.
#include "sampling/vocabulary_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace nanovllm {
namespace {

enum class Kind { kNormal, kTies, kEqual, kPeaked, kHoles, kPattern };
constexpr Kind kKinds[] = {Kind::kNormal, Kind::kTies,  Kind::kEqual,
                           Kind::kPeaked, Kind::kHoles, Kind::kPattern};
constexpr int64_t kSizes[] = {1, 2, 63, 64, 65, 200, 5000, 151936};

std::vector<float> make_logits(int64_t n, Kind kind, std::mt19937& rng) {
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = normal(rng);
    if (kind == Kind::kTies) x[i] = std::round(x[i]);
    if (kind == Kind::kEqual) x[i] = 1.5f;
    if (kind == Kind::kPeaked && rng() % 100 == 0) x[i] += 15;
    if (kind == Kind::kHoles && i > 0 && rng() % 2) x[i] = rng() % 2 ? -INFINITY : NAN;
    if (kind == Kind::kPattern && i % 32 == 0) x[i] += 20;  // what a sample of every 32nd misses
  }
  return x;
}

bool is_candidate(float x) { return !std::isnan(x); }

// All numbers, likeliest first, equal ones by id.
std::vector<int32_t> sorted(const std::vector<float>& x) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < x.size(); ++i)
    if (is_candidate(x[i])) ids.push_back(static_cast<int32_t>(i));
  std::ranges::sort(ids, [&](int32_t a, int32_t b) { return x[a] != x[b] ? x[a] > x[b] : a < b; });
  return ids;
}

TEST(VocabularyScan, SelectsAsASortDoes) {
  std::mt19937 rng(1);
  for (const int64_t n : kSizes)
    for (const Kind kind : kKinds) {
      SCOPED_TRACE(testing::Message() << n << " logits, kind " << static_cast<int>(kind));
      const auto x = make_logits(n, kind, rng);
      const auto order = sorted(x);
      const auto numbers = static_cast<int64_t>(order.size());
      VocabularyScan scan(n);
      scan.start(x);
      ASSERT_EQ(scan.argmax(), order[0]);
      ASSERT_EQ(scan.max(), x[order[0]]);
      double sum = 0;
      for (const int32_t id : order) sum += std::exp(double{x[id]} - x[order[0]]);
      ASSERT_NEAR(scan.log_sum_exp(), x[order[0]] + std::log(sum), 1e-5);

      for (int64_t k : {int64_t{1}, int64_t{2}, int64_t{50}, n / 64, n / 64 + 2, n / 3, n - 1, n,
                        n + 1, static_cast<int64_t>(rng() % n) + 1}) {
        if (k < 1) continue;
        ASSERT_EQ(scan.kth_largest(k), k <= numbers ? x[order[k - 1]] : -INFINITY) << "k " << k;
      }
      for (const int64_t count : {0, 1, 20, 300}) {
        const auto best = scan.best(count);
        ASSERT_EQ(static_cast<int64_t>(best.size()), std::min(count, numbers));
        ASSERT_TRUE(std::equal(best.begin(), best.end(), order.begin()));
      }
      for (int i = 0; i < 20; ++i) {
        const auto token = static_cast<int32_t>(rng() % n);
        ASSERT_EQ(scan.rank(token),
                  1 + std::ranges::count_if(x, [&](float v) { return v > x[token]; }));
      }
    }
}

// What a draw may give, likeliest first, with its probability; and how much mass comes before each.
struct Reference {
  std::vector<int32_t> ids;
  std::vector<double> probability, before;
};

Reference reference(const std::vector<float>& x, float floor, double temperature, double top_p) {
  Reference r;
  double total = 0;
  for (const int32_t id : sorted(x)) {
    if (x[id] < floor || x[id] == -INFINITY) continue;
    r.ids.push_back(id);
    r.probability.push_back(std::exp((double{x[id]} - x[r.ids[0]]) / temperature));
    r.before.push_back(total);
    total += r.probability.back();
  }
  for (size_t i = 0; i < r.ids.size(); ++i) r.probability[i] /= total, r.before[i] /= total;
  size_t kept = 0;
  double mass = 0;
  while (kept < r.ids.size() && r.before[kept] < top_p) mass += r.probability[kept++];
  r.ids.resize(kept), r.probability.resize(kept);
  for (double& p : r.probability) p /= mass;
  return r;
}

// Every draw is of the reference's set, up to rounding at its very end.
TEST(VocabularyScan, DrawsOnlyWhatTheReferenceAllows) {
  std::mt19937 rng(2);
  const float everything = -INFINITY;
  for (const int64_t n : kSizes)
    for (const Kind kind : kKinds)
      for (const double temperature : {1e-4, 0.5, 1.0, 1e4, 1e30})
        for (const double top_p : {1e-12, 0.1, 0.5, 0.9, 1.0}) {
          if (n > 200 && rng() % 10) continue;
          SCOPED_TRACE(testing::Message() << n << " logits, kind " << static_cast<int>(kind)
                                          << ", temperature " << temperature << ", p " << top_p);
          const auto x = make_logits(n, kind, rng);
          VocabularyScan scan(n);
          scan.start(x);
          const float floor =
              rng() % 2 ? everything : scan.kth_largest(static_cast<int64_t>(rng() % n) + 1);
          const auto r = reference(x, floor, temperature, top_p);
          std::vector<double> before(n, 2);
          for (size_t i = 0; i < r.ids.size(); ++i) before[r.ids[i]] = r.before[i];
          // One more may be in, if the mass before it is top_p but for rounding.
          const auto more = reference(x, floor, temperature, top_p * (1 + 1e-5));
          for (int draw = 0; draw < 20; ++draw) {
            const int32_t id = scan.draw(floor, temperature, top_p, RandomStream(rng(), 0, draw));
            ASSERT_GE(id, 0);
            ASSERT_LT(id, n);
            ASSERT_TRUE(before[id] < 2 || std::ranges::find(more.ids, id) != more.ids.end())
                << "drew " << id << " of logit " << x[id];
          }
        }
}

TEST(VocabularyScan, DrawsEachAsOftenAsItsProbability) {
  std::mt19937 rng(3);
  for (int trial = 0; trial < 30; ++trial) {
    const int64_t n = 2 + static_cast<int64_t>(rng() % 700);
    const auto x = make_logits(n, kKinds[trial % 6], rng);
    const double temperature = 0.3 + 0.1 * static_cast<double>(rng() % 20);
    const double top_p = trial % 2 ? 1.0 : 0.05 + 0.9 * static_cast<double>(rng() % 100) / 100;
    VocabularyScan scan(n);
    scan.start(x);
    const float floor =
        rng() % 2 ? -INFINITY : scan.kth_largest(static_cast<int64_t>(rng() % n) + 1);
    const auto r = reference(x, floor, temperature, top_p);
    std::vector<int> counts(n);
    constexpr int kDraws = 10000;
    for (int i = 0; i < kDraws; ++i) ++counts[scan.draw(floor, temperature, top_p, {7, trial, i})];
    // Chi-square over the tokens expected at least ten times, the others together.
    double chi = 0, rest_expected = 0;
    int cells = 0, rest = kDraws;
    for (size_t i = 0; i < r.ids.size(); ++i) {
      const double expected = kDraws * r.probability[i];
      if (expected < 10) {
        rest_expected += expected;
        continue;
      }
      chi += std::pow(counts[r.ids[i]] - expected, 2) / expected;
      rest -= counts[r.ids[i]];
      ++cells;
    }
    if (rest_expected >= 10) {
      chi += std::pow(rest - rest_expected, 2) / rest_expected;
      ++cells;
    } else {
      ASSERT_LE(rest, rest_expected + 25) << "trial " << trial;
    }
    // Mean cells - 1, deviation sqrt(2 (cells - 1)).
    ASSERT_LT(chi, cells + 6 * std::sqrt(2.0 * cells) + 6) << "trial " << trial << ", " << cells;
  }
}

TEST(VocabularyScan, TheNucleusKeepsTheSmallestIdsOfEquals) {
  // Three of ten equal tokens have at least a quarter of the mass: ids 0, 1, 2.
  const std::vector<float> x(10, 3.0f);
  VocabularyScan scan(10);
  scan.start(x);
  std::vector<int> counts(10);
  for (int i = 0; i < 3000; ++i) ++counts[scan.draw(-INFINITY, 1, 0.25, {1, 0, i})];
  for (int id = 0; id < 10; ++id) {
    if (id < 3)
      EXPECT_NEAR(counts[id], 1000, 130) << id;
    else
      EXPECT_EQ(counts[id], 0) << id;
  }
}

TEST(RandomStream, NumbersAreUniformAndIndependentOfEachOther) {
  constexpr int kCells = 16, kNumbers = 64000;
  for (int axis = 0; axis < 4; ++axis) {  // along seeds, indices, positions and one stream
    std::vector<int> pairs(kCells * kCells);
    RandomStream one(1, 0, 0);
    for (int i = 0; i < kNumbers; ++i) {
      RandomStream s(axis == 0 ? i : 5, axis == 1 ? i : 0, axis == 2 ? i : 9);
      RandomStream& stream = axis == 3 ? one : s;
      const int a = static_cast<int>(stream.next() * kCells);
      const int b = static_cast<int>(stream.next() * kCells);
      ++pairs[a * kCells + b];
    }
    double chi = 0;
    for (const int count : pairs) chi += std::pow(count - 250, 2) / 250;
    EXPECT_NEAR(chi, 255, 6 * std::sqrt(2.0 * 255)) << "axis " << axis;
  }
}

}  // namespace
}  // namespace nanovllm
