// The fair queue against a plain simulation of an engine: shares follow weights, nobody is idle for
// nothing, nobody saves up, and whoever asks little is served at once.

#include "server/fair_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace nanovllm {
namespace {

using testing::HasSubstr;

// An engine with so many slots: each step computes the whole prompt of who is new and one token of
// everybody else, by level, then entry. What does not fit into the slots stands still.
class Engine {
 public:
  Engine(std::vector<ShareLimits> shares, int64_t slots)
      : queue(shares, slots, 1 << 30), tokens(shares.size(), 0), slots_(slots) {}

  uint64_t push(size_t key, int64_t prompt, int64_t output, int priority = 0) {
    const uint64_t id = jobs_.size();
    jobs_.push_back({key, prompt, output});
    urgent = queue.push({.id = id, .key = key, .priority = priority, .tokens = prompt + 64});
    return id;
  }
  void step() {
    ++steps;
    while (const auto entry = queue.pop(steps)) {
      running_.push_back({entry->level, entry->id});
      entered.push_back(entry->id);
    }
    std::ranges::stable_sort(running_, {}, &Running::level);
    const size_t count = std::min<size_t>(running_.size(), static_cast<size_t>(slots_));
    std::vector<Running> left(running_.begin() + static_cast<int64_t>(count), running_.end());
    for (size_t i = 0; i < count; ++i) {
      Job& job = jobs_[running_[i].id];
      const int64_t work = job.started ? 1 : job.prompt;
      job.started = true;
      tokens[job.key] += work;
      queue.charge(running_[i].id, work, steps);
      if (--job.output > 0) {
        left.push_back(running_[i]);
      } else {
        queue.remove(running_[i].id);
      }
    }
    busy = count;
    std::ranges::sort(left, {}, &Running::id);
    running_ = left;
  }

  FairQueue queue;
  std::vector<int64_t> tokens;  // computed, by key
  std::vector<uint64_t> entered;
  int64_t steps = 0;
  size_t busy = 0;
  bool urgent = false;

 private:
  struct Job {
    size_t key;
    int64_t prompt, output;
    bool started = false;
  };
  struct Running {
    int level;
    uint64_t id;
  };
  const int64_t slots_;
  std::vector<Job> jobs_;
  std::vector<Running> running_;
};

TEST(FairQueue, TokensFollowWeightsWhateverTheRequestsAreLike) {
  std::mt19937 rng(3);
  auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  for (int trial = 0; trial < 12; ++trial) {
    std::vector<ShareLimits> shares(static_cast<size_t>(pick(2, 5)));
    std::vector<std::array<int64_t, 2>> longest;  // prompt and output of each key's requests
    double weights = 0;
    for (ShareLimits& share : shares) {
      share.weight = static_cast<double>(pick(1, 4));
      weights += share.weight;
      longest.push_back({pick(1, 300), pick(1, 200)});
    }
    Engine engine(shares, pick(8, 64));
    for (int step = 0; step < 15'000; ++step) {
      for (size_t key = 0; key < shares.size(); ++key)
        while (engine.queue.num_queued(key) < 80)
          engine.push(key, pick(1, longest[key][0]), pick(1, longest[key][1]));
      engine.step();
    }
    double total = 0;
    for (const int64_t tokens : engine.tokens) total += static_cast<double>(tokens);
    for (size_t key = 0; key < shares.size(); ++key)
      EXPECT_NEAR(static_cast<double>(engine.tokens[key]) / total, shares[key].weight / weights,
                  0.03 * shares[key].weight / weights)
          << "trial " << trial << " key " << key;
  }
}

TEST(FairQueue, OneKeyAloneGetsEverything) {
  for (const size_t keys : {1, 3}) {
    Engine engine(std::vector<ShareLimits>(keys), 16);
    for (int i = 0; i < 1000; ++i) engine.push(0, 100, 20);
    for (int step = 0; step < 200; ++step) {
      engine.step();
      ASSERT_EQ(engine.busy, 16u);
    }
  }
}

// A key that was away for long has no more to spend than one that has just used its turn, plus one
// quantum.
TEST(FairQueue, NobodySavesUp) {
  Engine engine({{}, {}}, 16);
  for (int i = 0; i < 20000; ++i) engine.push(0, 10, 10);
  for (int step = 0; step < 5000; ++step) engine.step();
  EXPECT_LE(engine.queue.deficit(1), FairQueue::kQuantum);
  for (int i = 0; i < 5000; ++i) engine.push(1, 10, 10);
  const std::vector<int64_t> before = engine.tokens;
  for (int step = 0; step < 1000; ++step) engine.step();
  const auto first = static_cast<double>(engine.tokens[0] - before[0]);
  const auto second = static_cast<double>(engine.tokens[1] - before[1]);
  EXPECT_NEAR(second / (first + second), 0.5, 0.02);
}

// The flood has a thousand requests in the queue and all slots; the other's request is the next to
// enter, before all others, each time.
TEST(FairQueue, WhoAsksLittleIsServedAtOnce) {
  Engine engine({{}, {}}, 16);
  for (int i = 0; i < 1000; ++i) engine.push(0, 50, 400 + i % 97);
  for (int step = 0; step < 100; ++step) engine.step();
  for (int round = 0; round < 20; ++round) {
    const uint64_t id = engine.push(1, 20, 5);
    EXPECT_TRUE(engine.urgent);
    const auto entry = engine.queue.pop(engine.steps);
    ASSERT_TRUE(entry);
    EXPECT_EQ(entry->id, id);
    EXPECT_EQ(entry->level, 0);
    engine.queue.charge(id, 25, engine.steps);
    engine.queue.remove(id);
    for (int step = 0; step < 50; ++step) engine.step();
  }
}

// ... and who asks more than its share is no newcomer, however it spreads its requests.
TEST(FairQueue, AlwaysComingBackDoesNotPay) {
  Engine engine({{}, {}}, 16);
  for (int i = 0; i < 20000; ++i) engine.push(0, 50, 50);
  int queued = 0;
  for (int step = 0; step < 20000; ++step) {
    if (engine.queue.num_queued(1) == 0) engine.push(1, 200, 2), ++queued;
    engine.step();
  }
  const auto total = static_cast<double>(engine.tokens[0] + engine.tokens[1]);
  EXPECT_LT(static_cast<double>(engine.tokens[1]) / total, 0.52);
  EXPECT_GT(queued, 100);
}

TEST(FairQueue, AnOwnerGetsItsSlotsBackFromWhoBorrowedThem) {
  Engine engine({{}, {}}, 16);
  for (int i = 0; i < 100; ++i) engine.push(0, 10, 100'000);
  for (int step = 0; step < 10; ++step) engine.step();
  EXPECT_EQ(engine.queue.num_running(0), 16);
  for (int i = 0; i < 100; ++i) engine.push(1, 10, 100'000);
  for (int step = 0; step < 2000; ++step) engine.step();
  EXPECT_EQ(engine.queue.num_running(1), 8);
}

TEST(FairQueue, OnlyNewcomersEnterWhenTheEngineHasEnough) {
  FairQueue queue({{}, {}}, 16, 100);
  for (uint64_t id = 0; id < 10; ++id) queue.push({.id = id, .key = 0, .tokens = 1000});
  EXPECT_TRUE(queue.pop(0));
  EXPECT_FALSE(queue.pop(0, true));  // its turn is over
  EXPECT_TRUE(queue.push({.id = 20, .key = 1, .tokens = 10}));
  EXPECT_EQ(queue.pop(0, true)->id, 20u);
  EXPECT_FALSE(queue.pop(0, true));
  EXPECT_TRUE(queue.pop(0));
}

TEST(FairQueue, PriorityThenArrivalInsideAKey) {
  Engine engine({{}, {}}, 1);
  const uint64_t a = engine.push(0, 1, 1, 5), b = engine.push(0, 1, 1, -1),
                 c = engine.push(0, 1, 1, 5), d = engine.push(0, 1, 1, -1);
  for (int step = 0; step < 6; ++step) engine.step();
  EXPECT_EQ(engine.entered, (std::vector<uint64_t>{b, d, a, c}));
}

TEST(FairQueue, LimitsSayWhenToComeBack) {
  FairQueue queue(
      {{.requests_per_minute = 2}, {.tokens_per_minute = 600}, {.max_queued_requests = 1}}, 4, 3);
  // Two requests, and one more each 30 seconds.
  EXPECT_FALSE(queue.check(0, 100));
  EXPECT_FALSE(queue.check(0, 100));
  auto refusal = queue.check(0, 100);
  ASSERT_TRUE(refusal);
  EXPECT_THAT(refusal->message, HasSubstr("requests_per_minute"));
  EXPECT_EQ(refusal->code, "rate_limit_exceeded");
  EXPECT_DOUBLE_EQ(refusal->retry_after, 30);
  EXPECT_TRUE(queue.check(0, 129));
  EXPECT_FALSE(queue.check(0, 130.5));
  // Tokens are counted when they are computed; what was overdrawn has to flow back first.
  EXPECT_FALSE(queue.check(1, 100));
  queue.push({.id = 1, .key = 1});
  ASSERT_TRUE(queue.pop(100));
  queue.charge(1, 700, 100);
  refusal = queue.check(1, 100);
  ASSERT_TRUE(refusal);
  EXPECT_THAT(refusal->message, HasSubstr("tokens_per_minute"));
  EXPECT_NEAR(refusal->retry_after, 10.1, 1e-9);
  EXPECT_FALSE(queue.check(1, 110.2));
  queue.remove(1);
  // Waiting requests: of the key, of the server.
  EXPECT_FALSE(queue.check(2, 200));
  queue.push({.id = 2, .key = 2});
  refusal = queue.check(2, 200);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->code, "queue_full");
  EXPECT_GT(refusal->retry_after, 0);
  EXPECT_FALSE(queue.check(1, 200));
  queue.push({.id = 3, .key = 1});
  queue.push({.id = 4, .key = 1});
  refusal = queue.check(1, 200);
  ASSERT_TRUE(refusal);
  EXPECT_THAT(refusal->message, HasSubstr("--max-queued-requests"));
  queue.remove(4);
  EXPECT_FALSE(queue.check(1, 200));
}

TEST(FairQueue, ConcurrencyLimitKeepsRequestsWaiting) {
  FairQueue queue({{.max_concurrent_requests = 2}, {}}, 16, 100);
  for (uint64_t id = 0; id < 5; ++id) queue.push({.id = id, .key = 0});
  EXPECT_TRUE(queue.pop(0));
  EXPECT_TRUE(queue.pop(0));
  EXPECT_FALSE(queue.pop(0));
  queue.push({.id = 9, .key = 1});
  EXPECT_EQ(queue.pop(0)->id, 9u);
  EXPECT_FALSE(queue.pop(0));
  queue.remove(0);
  EXPECT_EQ(queue.pop(0)->id, 2u);
  EXPECT_FALSE(queue.pop(0));
}

// Random pushes, entries, charges, cancellations: the counts stay right, and in the end all is
// free.
TEST(FairQueue, RandomOperationsLeaveNothingBehind) {
  std::mt19937 rng(11);
  auto pick = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(rng);
  };
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<ShareLimits> shares(static_cast<size_t>(pick(1, 4)));
    for (ShareLimits& share : shares) {
      share.weight = static_cast<double>(pick(1, 8)) / 4;
      share.max_concurrent_requests = pick(0, 3);
    }
    FairQueue queue(shares, pick(1, 8), 1000);
    std::vector<uint64_t> waiting, running;
    uint64_t next = 0;
    for (int i = 0; i < 2000; ++i) {
      const int64_t what = pick(0, 9);
      if (what < 4) {
        queue.push({.id = next,
                    .key = static_cast<size_t>(pick(0, std::ssize(shares) - 1)),
                    .priority = static_cast<int>(pick(-2, 2)),
                    .slots = pick(1, 4),
                    .tokens = pick(0, 5000)});
        waiting.push_back(next++);
      } else if (what < 7) {
        if (const auto entry = queue.pop(i)) {
          ASSERT_EQ(std::erase(waiting, entry->id), 1u);
          running.push_back(entry->id);
        }
      } else if (what == 7 && !running.empty()) {
        queue.charge(running[0], pick(0, 5000), i);
        queue.free_slots(running[0], 1);
      } else if (std::vector<uint64_t>& list = what == 8 ? waiting : running; !list.empty()) {
        const auto at = list.begin() + pick(0, std::ssize(list) - 1);
        queue.remove(*at);
        list.erase(at);
      }
      ASSERT_EQ(queue.num_queued(), std::ssize(waiting));
    }
    for (const uint64_t id : waiting) queue.remove(id);
    for (const uint64_t id : running) queue.remove(id);
    for (size_t key = 0; key < shares.size(); ++key) {
      EXPECT_EQ(queue.num_running(key), 0);
      EXPECT_DOUBLE_EQ(queue.deficit(key), FairQueue::kQuantum * shares[key].weight);
    }
    queue.push({.id = next, .key = 0});
    EXPECT_EQ(queue.pop(3000)->id, next);
  }
}

TEST(FairQueue, OtherLimitsHoldAtOnceAndNothingUsedUpComesBack) {
  FairQueue queue({{.requests_per_minute = 3}}, 4, 100);
  EXPECT_FALSE(queue.check(0, 0));
  EXPECT_FALSE(queue.check(0, 0));
  queue.push({.id = 1, .key = 0, .tokens = 10});
  queue.set_shares({{.requests_per_minute = 2}, {.weight = 3, .tokens_per_minute = 5}});
  EXPECT_TRUE(queue.check(0, 0));
  EXPECT_FALSE(queue.check(1, 0));
  queue.push({.id = 2, .key = 1, .tokens = 10});
  EXPECT_EQ(queue.num_queued(), 2);
  EXPECT_TRUE(queue.pop(0));
  EXPECT_TRUE(queue.pop(0));
  queue.charge(2, 5, 0);
  EXPECT_TRUE(queue.check(1, 0));
  queue.set_shares({{}, {}});
  EXPECT_FALSE(queue.check(0, 0));
  EXPECT_FALSE(queue.check(1, 0));
}

}  // namespace
}  // namespace nanovllm
