// The scheduler without a model: what drafts may take from others, which is nothing.

#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>

namespace nanovllm {
namespace {

struct Step {
  std::vector<std::tuple<uint64_t, int64_t, int64_t>> work;  // request, first token, tokens
  int64_t preemptions = 0;
  bool operator==(const Step&) const = default;
};

struct Recording {
  std::map<std::pair<uint64_t, int64_t>, int32_t> tokens;  // (request, position) -> what came out
  std::vector<Step> steps;
  int64_t draft_tokens = 0;
};

// Runs a random load whose "model" never says what was guessed. With a recording to play back, the
// same tokens come out again, without any speculation.
Recording run(uint64_t seed, const Recording* playback) {
  std::mt19937 rng(seed);
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
  EngineConfig config;
  config.block_size = pick(1, 6);
  config.max_num_seqs = pick(1, 6);
  config.max_num_batched_tokens = pick(1, 40);
  const int64_t num_blocks = 60 / config.block_size + pick(0, 6);
  // Without prefix caching: where memory is short, blocks that drafts take are forgotten earlier.
  BlockManager blocks(num_blocks, config.block_size, false);
  Scheduler scheduler(config, blocks);
  const SpeculativeConfig speculative{"ngram", pick(1, 8), 3, 1};
  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < 8; ++i) {
    auto request = std::make_unique<Request>();
    request->id = i;
    request->params.max_tokens = pick(1, 30);
    auto seq = std::make_unique<Sequence>();
    seq->request = request.get();
    for (int n = pick(1, 25); n > 0; --n) seq->token_ids.push_back(pick(0, 3));
    seq->num_prompt_tokens = seq->num_tokens();
    if (!playback) seq->proposer = std::make_unique<NgramProposer>(speculative, 100);
    request->sequences.push_back(std::move(seq));
    requests.push_back(std::move(request));
    scheduler.add(*requests.back()->sequences[0]);
  }
  Recording recording;
  Batch batch;
  while (scheduler.num_running() + scheduler.num_waiting() > 0) {
    const auto scheduled = scheduler.schedule(batch);
    EXPECT_LE(batch.num_tokens(), config.max_num_batched_tokens);
    Step& step = recording.steps.emplace_back();
    for (const ScheduledSequence& s : scheduled) {
      Sequence& seq = *s.seq;
      step.work.emplace_back(seq.request->id, seq.num_computed_tokens, s.num_tokens);
      recording.draft_tokens += std::ssize(s.draft);
      EXPECT_LE(seq.num_output_tokens() + 1 + std::ssize(s.draft), seq.request->params.max_tokens);
      scheduler.postprocess(seq, s.num_tokens);
      if (seq.num_uncomputed_tokens() > 0) continue;
      int32_t token = pick(0, 3);
      if (!s.draft.empty() && token == s.draft[0]) token = (token + 1) % 4;
      const std::pair key(seq.request->id, seq.num_tokens());
      if (playback) token = playback->tokens.at(key);
      recording.tokens[key] = token;
      seq.token_ids.push_back(token);
      if (seq.num_output_tokens() == seq.request->params.max_tokens) {
        scheduler.finish(seq);
      } else if (!s.draft.empty()) {
        blocks.trim(seq);
      }
    }
    step.preemptions = scheduler.num_preemptions();
    scheduler.check_integrity();
  }
  EXPECT_EQ(blocks.num_used_blocks(), 0);
  return recording;
}

TEST(Scheduler, WrongDraftsChangeNothingForAnybody) {
  int64_t draft_tokens = 0, preemptions = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Recording with = run(seed, nullptr), without = run(seed, &with);
    ASSERT_EQ(with.steps.size(), without.steps.size()) << "seed " << seed;
    for (size_t i = 0; i < with.steps.size(); ++i)
      ASSERT_EQ(with.steps[i], without.steps[i]) << "seed " << seed << " step " << i;
    draft_tokens += with.draft_tokens;
    preemptions += with.steps.back().preemptions;
    EXPECT_EQ(without.draft_tokens, 0);
  }
  EXPECT_GT(draft_tokens, 1000);
  EXPECT_GT(preemptions, 50);
}

TEST(Scheduler, DraftsComeAfterPromptChunks) {
  EngineConfig config;
  config.block_size = 4;
  config.max_num_seqs = 64;
  config.max_num_batched_tokens = 10;
  BlockManager blocks(100, 4, true);
  Scheduler scheduler(config, blocks);
  Request first, second;
  auto add = [&](Request& request, uint64_t id, int64_t length) -> Sequence& {
    request.id = id;
    request.params.max_tokens = 50;
    auto seq = std::make_unique<Sequence>();
    seq->request = &request;
    seq->token_ids.assign(length, 1);
    seq->num_prompt_tokens = length;
    seq->proposer = std::make_unique<NgramProposer>(SpeculativeConfig{"ngram", 4, 1}, 100);
    request.sequences.push_back(std::move(seq));
    scheduler.add(*request.sequences[0]);
    return *request.sequences[0];
  };
  Batch batch;
  Sequence& a = add(first, 1, 3);
  scheduler.schedule(batch);
  scheduler.postprocess(a, 3);
  a.token_ids.push_back(1);
  add(second, 2, 30);
  auto scheduled = scheduler.schedule(batch);
  ASSERT_EQ(scheduled.size(), 2u);
  EXPECT_TRUE(scheduled[0].draft.empty());  // the prompt chunk takes the whole budget
  EXPECT_EQ(scheduled[1].num_tokens, 9);
  scheduler.finish(*scheduled[1].seq);
  scheduled = scheduler.schedule(batch);
  ASSERT_EQ(scheduled.size(), 1u);
  EXPECT_EQ(scheduled[0].draft.size(), 4u);
  EXPECT_EQ(batch.token_ids, std::vector<int32_t>(5, 1));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{3, 4, 5, 6, 7}));
  EXPECT_EQ(batch.logits_rows, (std::vector<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(batch.context_lens, std::vector<int32_t>{8});
  EXPECT_EQ(scheduled[0].num_rows, 5);
}

// Requests that arrive together: what they have in common is computed once, and whoever has nothing
// in common with the others does not wait.
TEST(Scheduler, ACommonBeginningIsComputedOnce) {
  for (const bool caching : {true, false}) {
    EngineConfig config{.max_num_seqs = 64, .max_num_batched_tokens = 20};
    BlockManager blocks(100, 4, caching);
    Scheduler scheduler(config, blocks);
    std::vector<std::unique_ptr<Request>> requests;
    auto add = [&](int common, int own, uint64_t salt) {
      auto request = std::make_unique<Request>();
      request->id = requests.size();
      request->salt_hash = salt;
      auto seq = std::make_unique<Sequence>();
      seq->request = request.get();
      seq->token_ids.assign(common, 1);
      for (int i = 0; i < own; ++i) seq->token_ids.push_back(100 * request->id + i + 2);
      seq->num_prompt_tokens = common + own;
      request->sequences.push_back(std::move(seq));
      scheduler.add(*request->sequences[0]);
      requests.push_back(std::move(request));
    };
    add(27, 5, 0);  // 32 tokens: in the first step and in the second
    add(27, 6, 0);  // shares six blocks of it
    add(9, 1, 0);   // and two
    add(0, 3, 0);   // and none
    add(27, 5, 7);  // has another salt
    Batch batch;
    std::map<uint64_t, std::vector<int64_t>> chunks;  // of each request
    while (scheduler.num_running() + scheduler.num_waiting() > 0)
      for (const ScheduledSequence& s : scheduler.schedule(batch)) {
        chunks[s.seq->request->id].push_back(s.num_tokens);
        scheduler.postprocess(*s.seq, s.num_tokens);
        if (s.seq->num_uncomputed_tokens() == 0) scheduler.finish(*s.seq);
      }
    EXPECT_EQ(chunks[0], (std::vector<int64_t>{20, 12}));
    EXPECT_EQ(chunks[2], std::vector<int64_t>{caching ? 2 : 10});
    EXPECT_EQ(chunks[3], std::vector<int64_t>{3});
    auto computed = [&](uint64_t id) {
      return std::accumulate(chunks[id].begin(), chunks[id].end(), int64_t{0});
    };
    EXPECT_EQ(computed(1), caching ? 9 : 33);
    EXPECT_EQ(computed(4), 32);
  }
}

// A load of requests with a priority, a prompt and an answer of so many tokens, step by step.
class Load {
 public:
  explicit Load(const EngineConfig& config, int64_t num_blocks = 1000, bool caching = false)
      : blocks_(num_blocks, config.block_size, caching), scheduler(config, blocks_) {}

  uint64_t add(int priority, int64_t prompt, int64_t output) {
    return add(priority, prompt, output, static_cast<int32_t>(requests_.size()));
  }
  uint64_t add(int priority, int64_t prompt, int64_t output, int32_t token) {
    auto request = std::make_unique<Request>();
    request->id = requests_.size();
    request->options.priority = priority;
    request->params.max_tokens = output;
    auto seq = std::make_unique<Sequence>();
    seq->request = request.get();
    seq->token_ids.assign(prompt, token);
    seq->num_prompt_tokens = prompt;
    request->sequences.push_back(std::move(seq));
    scheduler.add(*request->sequences[0]);
    requests_.push_back(std::move(request));
    return requests_.back()->id;
  }
  // Who took part, with how many tokens.
  std::map<uint64_t, int64_t> step() {
    std::map<uint64_t, int64_t> work;
    Batch batch;
    for (const ScheduledSequence& s : scheduler.schedule(batch)) {
      work[s.seq->request->id] = s.num_tokens;
      scheduler.postprocess(*s.seq, s.num_tokens);
      if (s.seq->num_uncomputed_tokens() > 0) continue;
      s.seq->token_ids.push_back(0);
      if (s.seq->num_output_tokens() == s.seq->request->params.max_tokens) scheduler.finish(*s.seq);
    }
    scheduler.check_integrity();
    return work;
  }
  bool finished(uint64_t id) const { return requests_[id]->sequences[0]->is_finished(); }

 private:
  BlockManager blocks_;
  std::vector<std::unique_ptr<Request>> requests_;

 public:
  Scheduler scheduler;
};

using Work = std::map<uint64_t, int64_t>;

TEST(Scheduler, ASmallerPriorityComesInBeforeOthersGoOn) {
  Load load({.max_num_seqs = 3, .max_num_batched_tokens = 20});
  load.add(1, 5, 100);  // request 0
  load.add(1, 50, 100);
  load.add(1, 5, 100);
  EXPECT_EQ(load.step(), (Work{{0, 5}, {1, 15}}));
  EXPECT_EQ(load.step(), (Work{{0, 1}, {1, 19}}));
  load.add(0, 8, 100);  // request 3
  EXPECT_EQ(load.step(), (Work{{3, 8}}));
  // Everybody again, but for request 2, which has no slot yet.
  EXPECT_EQ(load.step(), (Work{{0, 1}, {1, 16}, {3, 1}}));
  EXPECT_EQ(load.scheduler.num_preemptions(), 0);
}

// It would share blocks that a larger priority computes.
TEST(Scheduler, ASmallerPriorityThatCannotComeInYetHoldsNobodyUp) {
  Load load({.max_num_seqs = 3, .max_num_batched_tokens = 20, .block_size = 4}, 1000, true);
  load.add(1, 50, 100, 7);
  EXPECT_EQ(load.step(), (Work{{0, 20}}));
  load.add(0, 50, 1, 7);
  EXPECT_EQ(load.step(), (Work{{0, 20}}));
  load.scheduler.drop_step();
  EXPECT_EQ(load.step(), (Work{{0, 10}}));
  EXPECT_EQ(load.step(), (Work{{1, 2}}));
  EXPECT_TRUE(load.finished(1));
}

TEST(Scheduler, WhoGoesLastGivesItsSlotToASmallerPriority) {
  Load load({.max_num_seqs = 2, .max_num_batched_tokens = 20});
  load.add(1, 5, 10);
  load.add(1, 5, 10);
  load.step();
  load.add(1, 5, 10);  // as good as the others: it waits
  EXPECT_EQ(load.step(), (Work{{0, 1}, {1, 1}}));
  EXPECT_EQ(load.scheduler.num_preemptions(), 0);
  load.add(0, 5, 2);
  EXPECT_EQ(load.step(), (Work{{3, 5}}));
  EXPECT_EQ(load.scheduler.num_preemptions(), 1);
  EXPECT_EQ(load.step(), (Work{{0, 1}, {3, 1}}));
  EXPECT_TRUE(load.finished(3));
  EXPECT_EQ(load.step(), (Work{{0, 1}, {1, 7}}));  // what it had, computed again
}

TEST(Scheduler, WhoGoesLastGivesItsBlocksToASmallerPriority) {
  Load load({.max_num_seqs = 64, .max_num_batched_tokens = 100, .block_size = 4}, 10);
  load.add(1, 12, 10);
  load.add(1, 12, 10);
  load.step();
  load.add(0, 20, 10);
  EXPECT_EQ(load.step(), (Work{{2, 20}}));
  EXPECT_EQ(load.scheduler.num_preemptions(), 1);
  while (load.scheduler.num_running() + load.scheduler.num_waiting() > 0) load.step();
}

// One that comes with each step and has its first token with it: the others have every second step.
TEST(Scheduler, EndlessNewcomersLeaveOthersEverySecondStep) {
  Load load({.max_num_seqs = 4, .max_num_batched_tokens = 20});
  const uint64_t slow = load.add(1, 5, 50);
  load.step();
  int steps = 0;
  for (; !load.finished(slow) && steps < 1000; ++steps) {
    load.add(0, 5, 1);
    load.step();
  }
  EXPECT_GE(steps, 49);
  EXPECT_LE(steps, 2 * 49);
}

// The same, with so many that the slots are full: the slow one may have to wait for a gap, but none
// of the random loads leaves it behind.
TEST(Scheduler, EverybodyFinishesUnderRandomPriorities) {
  std::mt19937 rng(7);
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(rng); };
  int64_t preemptions = 0;
  for (int trial = 0; trial < 50; ++trial) {
    Load load({.max_num_seqs = pick(1, 5),
               .max_num_batched_tokens = pick(1, 30),
               .block_size = pick(1, 8)},
              70);
    int left = 40, steps = 0;
    while (left > 0 || load.scheduler.num_running() + load.scheduler.num_waiting() > 0) {
      for (int n = pick(0, 2); n > 0 && left > 0; --n, --left)
        load.add(pick(0, 3), pick(1, 40), pick(1, 30));
      load.step();
      ASSERT_LT(++steps, 20000);
    }
    for (uint64_t id = 0; id < 40; ++id) EXPECT_TRUE(load.finished(id));
    preemptions += load.scheduler.num_preemptions();
  }
  EXPECT_GT(preemptions, 50);
}

}  // namespace
}  // namespace nanovllm
