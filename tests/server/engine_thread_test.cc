// Tasks between steps, pausing, single steps, failure.
#include "server/engine_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <string>

namespace nanovllm {
namespace {

LLM tiny() {
  return LLM({.model = std::string(NANO_VLLM_SOURCE_DIR) + "/tests/data/tiny/llama",
              .max_model_len = 256,
              .threads = 1});
}

uint64_t add(LLM& llm, int64_t tokens, StreamCallback callback) {
  return llm.add_request({.token_ids = {1, 2, 3}},
                         {.temperature = 0, .max_tokens = tokens, .ignore_eos = true},
                         std::move(callback));
}

TEST(EngineThread, RunsTasksInOrderAndStepsUntilAllIsDone) {
  LLM llm = tiny();
  EngineThread engine(llm);
  std::vector<int> order;
  std::promise<void> finished;
  engine.post([&](LLM&) { order.push_back(1); });
  engine.post([&](LLM& l) {
    order.push_back(2);
    add(l, 20, [&](const StreamEvent& e) {
      if (e.request_finished) finished.set_value();
    });
  });
  EXPECT_EQ(finished.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
  EXPECT_TRUE(engine.run([&](LLM& l) { EXPECT_FALSE(l.has_unfinished_requests()); }));
  EXPECT_EQ(order, (std::vector{1, 2}));
}

TEST(EngineThread, PausedItTakesTheStepsItIsToldAndTasksRun) {
  LLM llm = tiny();
  EngineThread engine(llm);
  engine.set_paused(true);
  std::atomic<int> tokens{0};
  engine.run([&](LLM& l) { add(l, 20, [&](const StreamEvent&) { ++tokens; }); });
  const auto steps = [&] {
    int64_t n = 0;
    engine.run([&](LLM& l) { n = l.stats().steps; });
    return n;
  };
  EXPECT_EQ(steps(), 0);
  engine.step_once();
  engine.step_once();
  while (steps() < 2) std::this_thread::yield();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(steps(), 2);
  EXPECT_EQ(tokens, 2);
  EXPECT_TRUE(engine.paused());
  engine.set_paused(false);
  while (tokens < 20) std::this_thread::yield();
}

TEST(EngineThread, ATaskThatThrowsIsAFailure) {
  LLM llm = tiny();
  std::promise<std::string> why;
  EngineThread engine(llm, [&](const std::string& text) { why.set_value(text); });
  engine.post([](LLM&) { throw std::runtime_error("a defect"); });
  EXPECT_EQ(why.get_future().get(), "a defect");
  EXPECT_TRUE(engine.failed());
  EXPECT_FALSE(engine.post([](LLM&) {}));
  EXPECT_FALSE(engine.run([](LLM&) {}));
}

TEST(EngineThread, WhoeverWaitsForATaskThatIsDroppedIsTold) {
  LLM llm = tiny();
  auto engine = std::make_unique<EngineThread>(llm);
  engine->stop();
  EXPECT_FALSE(engine->run([](LLM&) {}));
}

TEST(EngineThread, TheHookRunsBeforeEachStepAndMayFillTheEngine) {
  LLM llm = tiny();
  EngineThread engine(llm);
  std::promise<void> finished;
  bool added = false;
  engine.before_step([&](LLM& l) {
    if (std::exchange(added, true)) return;
    add(l, 3, [&](const StreamEvent& e) {
      if (e.request_finished) finished.set_value();
    });
  });
  engine.post([](LLM&) {});
  EXPECT_EQ(finished.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
}

}  // namespace
}  // namespace nanovllm
