// The proposer against a plain loop over the text.

#include "speculative/ngram_proposer.h"

#include <gtest/gtest.h>

#include <random>

namespace nanovllm {
namespace {

using Tokens = std::vector<int32_t>;

Tokens propose(NgramProposer& proposer, const Tokens& tokens, int64_t limit = 1000) {
  const auto draft = proposer.propose(tokens, limit);
  return {draft.begin(), draft.end()};
}

// What the header promises, in as many words: the longest match, the latest of those.
Tokens plain_loop(const Tokens& tokens, int64_t min, int64_t max, int64_t count) {
  const auto size = static_cast<int64_t>(tokens.size());
  for (int64_t length = max; length >= min; --length)
    for (int64_t from = size - 1; from >= length; --from)
      if (std::equal(tokens.end() - length, tokens.end(), tokens.begin() + from - length)) {
        Tokens text = tokens;
        for (int64_t i = 0; i < count; ++i) text.push_back(text[from + i]);
        return {text.begin() + size, text.end()};
      }
  return {};
}

TEST(NgramProposer, AgreesWithAPlainLoop) {
  std::mt19937 rng(11);
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
  int drafts = 0, none = 0;
  for (int round = 0; round < 300; ++round) {
    const int max = pick(1, 6), min = pick(1, max), count = pick(1, 9), alphabet = pick(1, 12);
    // Below kMaxCandidates tokens the bound on candidates cannot be reached.
    const int length = pick(1, NgramProposer::kMaxCandidates - 1);
    NgramProposer proposer({"ngram", count, max, min}, length);
    Tokens tokens;
    while (static_cast<int>(tokens.size()) < length) {
      // One token or several since the last call.
      for (int n = pick(1, 4); n > 0 && static_cast<int>(tokens.size()) < length; --n)
        tokens.push_back(pick(0, alphabet - 1));
      const int limit = pick(-1, 12);
      const Tokens expected = plain_loop(tokens, min, max, std::clamp(limit, 0, count));
      ASSERT_EQ(propose(proposer, tokens, limit), expected) << "round " << round;
      ++(expected.empty() ? none : drafts);
    }
  }
  EXPECT_GT(drafts, 1000);
  EXPECT_GT(none, 1000);
}

TEST(NgramProposer, PrefersTheLongestThenTheLatest) {
  NgramProposer proposer({"ngram", 2, 3, 1}, 100);
  //                                  three of them  two, later   one, latest
  EXPECT_EQ(propose(proposer, {7, 8, 9, 1, 2, 0, 8, 9, 3, 4, 0, 9, 5, 6, 7, 8, 9}), (Tokens{1, 2}));
  NgramProposer latest({"ngram", 2, 2, 1}, 100);
  EXPECT_EQ(propose(latest, {7, 8, 9, 1, 2, 0, 8, 9, 3, 4, 0, 9, 5, 6, 7, 8, 9}), (Tokens{3, 4}));
}

TEST(NgramProposer, GoesOnRepeatingWhatRepeats) {
  NgramProposer proposer({"ngram", 7, 4, 2}, 100);
  EXPECT_EQ(propose(proposer, {1, 2, 3, 1, 2, 3, 1, 2}), (Tokens{3, 1, 2, 3, 1, 2, 3}));
  NgramProposer same({"ngram", 3, 4, 2}, 100);
  EXPECT_EQ(propose(same, {5, 5, 5}), (Tokens{5, 5, 5}));
}

TEST(NgramProposer, SaysNothingWithoutAMatch) {
  NgramProposer proposer({"ngram", 4, 3, 2}, 100);
  for (const Tokens& tokens : {Tokens{}, {1}, {1, 1}, {1, 1, 2}, {1, 1, 2, 1}})
    EXPECT_EQ(propose(proposer, tokens), Tokens{});
  EXPECT_EQ(propose(proposer, {1, 1, 2, 1, 1}), (Tokens{2, 1, 1, 2}));
}

TEST(NgramProposer, DefaultsAreVllms) {
  EXPECT_EQ((SpeculativeConfig{"ngram", 3}.lookup_min()), 5);
  EXPECT_EQ((SpeculativeConfig{"ngram", 3}.lookup_max()), 5);
  EXPECT_EQ((SpeculativeConfig{"ngram", 3, 4}.lookup_min()), 4);
  EXPECT_EQ((SpeculativeConfig{.prompt_lookup_min = 2}.lookup_max()), 2);
}

// A step must not cost more because one token makes up half of a long text.
TEST(NgramProposer, LooksAtABoundedNumberOfCandidates) {
  const int length = 200'000;
  NgramProposer proposer({"ngram", 4, 3, 1}, length);
  std::mt19937 rng(3);
  Tokens tokens;
  for (int i = 0; i < length; ++i) {
    tokens.push_back(i % 2 ? static_cast<int32_t>(rng()) : 0);  // pairs hardly ever occur twice
    if (i % 50 == 0) propose(proposer, tokens);
  }
  tokens.push_back(0);  // an even position: the text ends in two zeros, which is new
  EXPECT_EQ(propose(proposer, tokens).size(), 4u);
}

}  // namespace
}  // namespace nanovllm
