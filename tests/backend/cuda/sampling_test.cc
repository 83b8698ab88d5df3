// Tokens and logprobs of the device against the host's sampler, which is tested against an oracle
// that sorts. Both draw from the same numbers, so that tokens are equal, but where a draw falls
// between two roundings of a sum.
#include <limits>

#include "cuda_test_util.h"
#include "sampling/sampler.h"

namespace nanovllm {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows with what they point to.
struct Rows {
  std::vector<SampleRow> rows;
  std::vector<std::vector<LogitBias>> biases;
  std::vector<std::vector<uint32_t>> masks;
  std::vector<std::vector<int32_t>> histories;
  std::vector<float> logits;
};

SampleRow random_row(Random& random, int64_t vocab) {
  SampleRow row;
  const bool greedy = random.integer(0, 4) == 0;
  row.temperature = greedy ? 0 : 0.3 + 0.1 * static_cast<double>(random.integer(0, 20));
  if (random.integer(0, 1)) row.top_k = random.integer(1, std::min<int64_t>(2 * vocab, 80));
  if (random.integer(0, 9) == 0) row.top_k = random.integer(1, vocab);
  if (random.integer(0, 1)) row.top_p = 0.01 * static_cast<double>(random.integer(5, 99));
  if (random.integer(0, 2) == 0) row.min_p = 0.05;
  if (random.integer(0, 2) == 0) row.num_logprobs = static_cast<int32_t>(random.integer(0, 20));
  row.seed = static_cast<uint64_t>(random.integer(0, 1 << 30));
  row.index = static_cast<int32_t>(random.integer(0, 3));
  row.position = random.integer(1, 1000);
  return row;
}

Rows random_rows(Random& random, int64_t count, int64_t vocab, bool extras) {
  Rows r;
  for (int64_t i = 0; i < count; ++i) {
    SampleRow row = random_row(random, vocab);
    auto& biases = r.biases.emplace_back();
    auto& mask = r.masks.emplace_back();
    auto& history = r.histories.emplace_back();
    if (random.integer(0, 5) == 0) {
      row.scored_token = static_cast<int32_t>(random.integer(0, vocab - 1));
      row.num_logprobs = std::max(row.num_logprobs, 0);
    } else if (extras) {
      if (random.integer(0, 1)) {
        for (int32_t id = 0; id < std::min<int64_t>(vocab, 9); ++id)
          biases.push_back({id, random.normal() * 3});
        biases.push_back({static_cast<int32_t>(random.integer(0, vocab - 1) % 9), -kInfinity});
        if (biases.back().token_id >= vocab) biases.pop_back();
      }
      if (random.integer(0, 1))
        for (int64_t w = 0; w < (vocab + 31) / 32; ++w)
          mask.push_back(static_cast<uint32_t>(random.integer(0, 0xffffffff) | 1));
      if (random.integer(0, 1)) {
        for (int64_t n = random.integer(1, 60); n > 0; --n)
          history.push_back(
              static_cast<int32_t>(random.integer(0, std::min<int64_t>(vocab, 30) - 1)));
        row.num_prompt_tokens = random.integer(0, std::ssize(history));
        row.repetition_penalty = random.integer(0, 1) ? 1.3 : 1;
        row.presence_penalty = random.integer(0, 1) ? 0.4 : 0;
        row.frequency_penalty = random.integer(0, 1) ? 0.2 : 0;
        row.sequence = static_cast<uint64_t>(1000 * random.integer(1, 1 << 30) + i);
      }
    }
    r.rows.push_back(row);
    const bool ties = random.integer(0, 2) == 0;
    for (int64_t id = 0; id < vocab; ++id) {
      const float x = random.normal() * 3;
      r.logits.push_back(ties ? std::round(x) : x);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    r.rows[i].biases = r.biases[i];
    r.rows[i].allowed = r.masks[i];
    r.rows[i].history = r.histories[i];
  }
  return r;
}

class SamplingDevice {
 public:
  explicit SamplingDevice(int64_t vocab, int64_t max_rows = 64, int64_t max_seqs = 8)
      : vocab_(vocab), device_(false) {
    device_.backend->reserve({.max_tokens = max_rows,
                              .max_seqs = max_seqs,
                              .max_blocks = 1,
                              .max_position = 2000,
                              .vocab_size = vocab});
    sampler_ = device_.backend->make_sampler();
    logits_ = device_.backend->allocate(max_rows * vocab);
  }
  StepSampler& sampler() { return *sampler_; }

  // A step up to submit(): the pass only "computes" the logits; draws take up to `most` rows.
  void step(const Rows& r, int64_t most = 1000) {
    const auto count = std::ssize(r.rows);
    sampler_->begin(r.rows);
    Batch batch = one_token_each(1);
    device_.backend->run(batch, [](const Batch&) { return true; });
    write_activations(r.logits, true, logits_);
    for (int64_t first = 0; first < count; first += most)
      sampler_->draw(logits_ + first * vocab_, first, std::min(most, count - first));
    sampler_->submit();
  }
  std::vector<float> logits(int64_t n) { return device_.read_floats(logits_, n); }

 private:
  const int64_t vocab_;
  Device device_;
  std::unique_ptr<StepSampler> sampler_;
  float* logits_;
};

void expect_results(const Rows& r, int64_t vocab, StepSampler& device, const std::string& what) {
  Sampler host(vocab);
  const std::span<const int32_t> tokens = device.wait();
  ASSERT_EQ(tokens.size(), r.rows.size()) << what;
  for (size_t i = 0; i < r.rows.size(); ++i) {
    const SampleRow& row = r.rows[i];
    std::vector<float> logits(r.logits.begin() + i * vocab, r.logits.begin() + (i + 1) * vocab);
    const int32_t want = row.scored_token >= 0 ? row.scored_token : host.sample(row, logits);
    ASSERT_EQ(tokens[i], want) << what << ", row " << i << ", temperature " << row.temperature
                               << ", top_k " << row.top_k << ", top_p " << row.top_p << ", min_p "
                               << row.min_p;
    if (row.num_logprobs < 0) continue;
    const PositionLogprobs expected = host.logprobs(logits, want, row.num_logprobs);
    const auto got = device.logprobs(static_cast<int64_t>(i));
    ASSERT_EQ(got.size(), expected.size()) << what;
    for (size_t j = 0; j < expected.size(); ++j) {
      EXPECT_EQ(got[j].token_id, expected[j].token_id) << what << ", row " << i << ", " << j;
      EXPECT_EQ(got[j].rank, expected[j].rank) << what << ", row " << i << ", " << j;
      EXPECT_NEAR(got[j].logprob, expected[j].logprob, 2e-5) << what << ", row " << i << ", " << j;
    }
  }
}

TEST(CudaSampling, DrawsAndScoresAsTheHost) {
  Random random(71);
  for (const int64_t vocab : {1, 7, 64, 65, 1000, 5003}) {
    SamplingDevice device(vocab);
    for (int trial = 0; trial < (vocab > 100 ? 3 : 8); ++trial) {
      const Rows rows = random_rows(random, 1 + trial * 2, vocab, trial % 2);
      device.step(rows, trial % 3 ? 1000 : 4);
      expect_results(rows, vocab, device.sampler(), "vocabulary of " + std::to_string(vocab));
      const auto count = std::min<int64_t>(std::ssize(rows.rows), trial % 3 ? 1000 : 4) * vocab;
      // Biases are taken back.
      EXPECT_TRUE(
          same_bits(device.logits(count), {rows.logits.begin(), rows.logits.begin() + count}));
    }
  }
}

// One row of a large vocabulary, peaked as a model's is: what every kind of draw reads.
TEST(CudaSampling, ALargeVocabulary) {
  constexpr int64_t kVocab = 151936;
  Random random(72);
  SamplingDevice device(kVocab, 16);
  Rows rows = random_rows(random, 6, kVocab, false);
  for (float& x : rows.logits) x = x > 6 ? 2 * x : x;
  for (SampleRow& row : rows.rows) row.temperature = 1, row.top_k = 0, row.top_p = 1, row.min_p = 0;
  rows.rows[1].top_k = 50;
  rows.rows[2].top_p = 0.9;
  rows.rows[3].top_k = 5000;  // more than there are blocks of 64
  rows.rows[4].min_p = 0.02;
  rows.rows[5].temperature = 0;
  rows.rows[2].num_logprobs = 20;
  device.step(rows);
  expect_results(rows, kVocab, device.sampler(), "large");
}

TEST(CudaSampling, BrokenLogitsGiveAToken) {
  constexpr int64_t kVocab = 200;
  SamplingDevice device(kVocab);
  Rows rows;
  for (int i = 0; i < 6; ++i) {
    SampleRow row;
    row.temperature = i % 2 ? 1 : 0;
    rows.rows.push_back(row);
    std::vector<float> logits(kVocab, i < 2 ? std::nanf("") : i < 4 ? -kInfinity : 1.0f);
    if (i >= 4) logits[70] = kInfinity, logits[80] = kInfinity;
    rows.logits.insert(rows.logits.end(), logits.begin(), logits.end());
  }
  device.step(rows);
  const auto tokens = device.sampler().wait();
  EXPECT_EQ((std::vector<int32_t>(tokens.begin(), tokens.end())),
            (std::vector<int32_t>{0, 0, 0, 0, 70, 70}));
}

// More sequences with penalties than the device has room for, whose histories grow from step to
// step; two steps are under way at a time, and each step's results are read while the next two are.
TEST(CudaSampling, PenaltiesOverManySteps) {
  constexpr int64_t kVocab = 300;
  Random random(73);
  SamplingDevice device(kVocab, 64, 3);
  std::vector<std::vector<int32_t>> histories(7, std::vector<int32_t>{1, 2, 3});
  std::vector<Rows> steps;
  for (int step = 0; step < 12; ++step) {
    Rows rows = random_rows(random, 7, kVocab, false);
    rows.histories = histories;
    for (size_t i = 0; i < rows.rows.size(); ++i) {
      SampleRow& row = rows.rows[i];
      row.scored_token = -1;
      row.sequence = i;
      row.history = rows.histories[i];
      row.num_prompt_tokens = 3;
      row.repetition_penalty = 1.2;
      row.presence_penalty = 0.5;
      row.frequency_penalty = 0.3;
      if ((step + i) % 3 == 0) row.history = {};  // not this time
      for (int n = 0; n < 3; ++n)
        histories[i].push_back(static_cast<int32_t>(random.integer(0, 20)));
    }
    steps.push_back(std::move(rows));
    device.step(steps.back(), 5);
    if (step > 0) expect_results(steps[step - 1], kVocab, device.sampler(), std::to_string(step));
  }
  expect_results(steps.back(), kVocab, device.sampler(), "last");
  EXPECT_THROW(device.sampler().wait(), Error);
}

// A step that is given up leaves the tokens of the one before where the next batch finds them.
TEST(CudaSampling, TheNextBatchNamesTokensThatTheHostDoesNotKnow) {
  constexpr int64_t kVocab = 90, kDim = 8;
  Random random(74);
  Device device(false);
  Backend& backend = *device.backend;
  backend.reserve({.max_tokens = 16,
                   .max_seqs = 16,
                   .max_blocks = 1,
                   .max_position = 100,
                   .vocab_size = kVocab});
  const auto sampler = backend.make_sampler();
  const RandomTensor table("table", DType::kBF16, kVocab, kDim, random);
  const auto weight = backend.pack({&table.view, 1}, WeightType::kAsStored);
  float* const logits = backend.allocate(16 * kVocab);
  float* const out = backend.allocate(16 * kDim);
  const Rows rows = random_rows(random, 5, kVocab, false);
  const auto nothing = [](const Batch&) { return true; };
  sampler->begin(rows.rows);
  backend.run(one_token_each(5), nothing);
  write_activations(rows.logits, true, logits);
  sampler->draw(logits, 0, 5);
  sampler->submit();

  const Rows other = random_rows(random, 3, kVocab, false);
  sampler->begin(other.rows);
  EXPECT_FALSE(backend.run(one_token_each(3), [](const Batch&) { return false; }));

  Batch batch = one_token_each(4);
  batch.token_ids = {-1 - 4, 17, -1 - 0, -1 - 4};
  sampler->begin({});
  backend.run(batch, [&](const Batch& b) {
    backend.embed(*weight, 0, b.token_ids, out);
    return true;
  });
  sampler->submit();
  const auto tokens = sampler->wait();
  std::vector<double> want;
  for (const int32_t id : {tokens[4], 17, tokens[0], tokens[4]})
    for (int64_t i = 0; i < kDim; ++i) want.push_back(table.values[id * kDim + i]);
  EXPECT_TRUE(sampler->wait().empty());
  expect_near(device.read_floats(out, 4 * kDim), want, 0, "embedding");
}

}  // namespace
}  // namespace nanovllm
