// StepTrace: what the observer of a step is told agrees with the engine's own counters, with the
// block tables and with what the requests receive, and watching changes no token.

#include "nanovllm/step_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <stdexcept>

#include "fake_device/fake_device.h"

namespace nanovllm {
namespace {

using Status = StepTraceSequence::Status;

EngineConfig tiny_config(int64_t budget = 512) {
  return {.model = NANO_VLLM_SOURCE_DIR "/tests/data/tiny/llama-gqa",
          .max_num_batched_tokens = budget,
          .kv_cache_memory_bytes = 4 << 20,
          .threads = 2};
}

std::vector<int32_t> numbers(int64_t count, int32_t first = 1) {
  std::vector<int32_t> ids(count);
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((first + i * 7) % 100);
  return ids;
}

// Holds for every step of every run.
void expect_consistent(const StepTrace& t) {
  std::vector<int32_t> references(t.blocks.size());
  for (const StepTraceSequence& s : t.sequences)
    for (int32_t id : s.block_table) ++references[id];
  int64_t used = 0;
  for (size_t i = 0; i < t.blocks.size(); ++i) {
    EXPECT_EQ(t.blocks[i].num_references, references[i]) << "block " << i;
    used += references[i] > 0;
  }
  EXPECT_EQ(used, t.stats.kv_blocks_used);
  EXPECT_EQ(std::ssize(t.blocks), t.stats.kv_blocks_total);
  int64_t tokens = 0;
  for (const StepTraceShare& s : t.batch) {
    EXPECT_GE(s.num_tokens, 1);
    EXPECT_LE(s.num_accepted_tokens, s.num_draft_tokens);
    tokens += s.num_tokens + s.num_draft_tokens;
  }
  EXPECT_GE(tokens, 1);
  EXPECT_LE(tokens, t.max_num_batched_tokens);
  EXPECT_EQ(std::ranges::count(t.sequences, Status::kRunning, &StepTraceSequence::status),
            t.stats.running);
  EXPECT_EQ(std::ranges::count(t.sequences, Status::kWaiting, &StepTraceSequence::status),
            t.stats.waiting);
  const StepSeconds& p = t.phases;
  EXPECT_NEAR(p.schedule + p.model + p.logits + p.sample + p.postprocess, t.duration, 1e-9);
  EXPECT_GT(p.model, 0);
}

// Of steps that follow each other, and of those of a device, which overlap: what is told of a step
// is then told while the next one is under way.
class StepTraceOn : public testing::TestWithParam<const char*> {
 protected:
  EngineConfig config(int64_t budget = 512) {
    EngineConfig c = tiny_config(budget);
    c.device = GetParam();
    return c;
  }
  const FakeDevice device_;
};
INSTANTIATE_TEST_SUITE_P(Devices, StepTraceOn, testing::Values("cpu", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(StepTraceOn, TellsChunksDecodesAndTheEnd) {
  LLM llm(config(16));
  std::vector<StepTrace> traces;
  const auto begin = std::chrono::steady_clock::now();
  llm.set_step_observer([&](const StepTrace& t) {
    expect_consistent(t);
    traces.push_back(t);
  });
  const uint64_t id =
      llm.add_request({.token_ids = numbers(40)}, {.max_tokens = 3, .ignore_eos = true}, nullptr);
  while (llm.has_unfinished_requests()) llm.step();
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();

  ASSERT_EQ(traces.size(), 5);  // 16 + 16 + 8 tokens of the prompt, which give the first; 2 decodes
  const int64_t first[] = {0, 16, 32, 40, 41}, count[] = {16, 16, 8, 1, 1};
  const int64_t outputs[] = {0, 0, 1, 2, 3};
  for (int i = 0; i < 5; ++i) {
    const StepTrace& t = traces[i];
    EXPECT_EQ(t.step, i + 1);
    ASSERT_EQ(t.batch.size(), 1);
    EXPECT_EQ(t.batch[0].request_id, id);
    EXPECT_EQ(t.batch[0].first_position, first[i]);
    EXPECT_EQ(t.batch[0].num_tokens, count[i]);
    EXPECT_EQ(t.batch[0].is_decode, i >= 3);
    ASSERT_EQ(t.sequences.size(), 1);
    EXPECT_EQ(t.sequences[0].num_prompt_tokens, 40);
    EXPECT_EQ(t.sequences[0].num_computed_tokens, first[i] + count[i]);
    EXPECT_EQ(t.sequences[0].num_output_tokens, outputs[i]);
    EXPECT_EQ(t.sequences[0].status, i == 4 ? Status::kFinished : Status::kRunning);
    EXPECT_LE(t.sequences[0].arrival, t.start);
    if (i > 0) {
      EXPECT_GE(t.start, traces[i - 1].start + traces[i - 1].duration);
    }
  }
  EXPECT_EQ(traces[4].sequences[0].finish_reason, FinishReason::kLength);
  EXPECT_TRUE(traces[4].sequences[0].block_table.empty());
  EXPECT_EQ(traces[3].sequences[0].block_table.size(), 3);
  EXPECT_LE(traces[4].start + traces[4].duration - traces[0].sequences[0].arrival, elapsed);
  // What nobody holds any more can still be found.
  EXPECT_EQ(std::ranges::count(traces[4].blocks, true, &StepTraceBlock::is_cached), 2);
}

TEST_P(StepTraceOn, ShowsSharedBlocksAndCachedTokens) {
  LLM llm(config());
  StepTrace last;
  std::map<uint64_t, int64_t> cached;
  llm.set_step_observer([&](const StepTrace& t) {
    expect_consistent(t);
    last = t;
    for (const StepTraceShare& s : t.batch) cached[s.request_id] += s.num_cached_tokens;
  });
  const SamplingParams params{.max_tokens = 20, .ignore_eos = true};
  std::vector<int32_t> longer = numbers(50);
  const uint64_t a = llm.add_request({.token_ids = longer}, params, nullptr);
  longer.resize(70, 5);
  const uint64_t b = llm.add_request({.token_ids = longer}, params, nullptr);
  for (int i = 0; i < 4; ++i) llm.step();
  EXPECT_EQ(cached[a], 0);
  EXPECT_EQ(cached[b], 48);
  ASSERT_EQ(last.sequences.size(), 2);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(last.sequences[0].block_table[i], last.sequences[1].block_table[i]);
    EXPECT_EQ(last.blocks[last.sequences[0].block_table[i]].num_references, 2);
  }
  EXPECT_NE(last.sequences[0].block_table[3], last.sequences[1].block_table[3]);
}

TEST(StepTrace, CountsDraftsAsTheEngineDoes) {
  EngineConfig config = tiny_config();
  config.speculative_config = {"ngram", 3, 2, 1};
  LLM llm(config);
  int64_t drafted = 0, accepted = 0, tokens = 0;
  llm.set_step_observer([&](const StepTrace& t) {
    expect_consistent(t);
    for (const StepTraceShare& s : t.batch) {
      drafted += s.num_draft_tokens, accepted += s.num_accepted_tokens;
      tokens += s.is_decode ? s.num_tokens + s.num_accepted_tokens : 0;
    }
    EXPECT_EQ(drafted, t.stats.num_draft_tokens);
    EXPECT_EQ(accepted, t.stats.num_accepted_tokens);
  });
  for (int i = 0; i < 4; ++i)
    llm.add_request({.token_ids = numbers(10, i)},
                    {.logit_bias = {{6, 9.0}, {7, 9.0}}, .max_tokens = 60 + i, .ignore_eos = true},
                    nullptr);
  while (llm.has_unfinished_requests()) llm.step();
  EXPECT_GT(accepted, 0);
  EXPECT_LT(accepted, drafted);
  EXPECT_EQ(tokens, 60 + 61 + 62 + 63 - 4);  // each prompt gave the first
}

TEST_P(StepTraceOn, ShowsPreemptionAndRecomputation) {
  EngineConfig c = config();
  c.max_model_len = 64;
  c.max_num_seqs = 4;
  c.kv_cache_memory_bytes = 10 * 16 * LLM(c).memory_plan().kv_bytes_per_token;
  LLM llm(c);
  ASSERT_LT(llm.memory_plan().num_kv_blocks, 16);
  bool was_preempted = false, was_recomputed = false;
  llm.set_step_observer([&](const StepTrace& t) {
    expect_consistent(t);
    for (const StepTraceSequence& s : t.sequences)
      was_preempted |= s.status == Status::kWaiting && s.num_output_tokens > 0;
    for (const StepTraceShare& s : t.batch)  // more than its prompt, at once
      was_recomputed |= !s.is_decode && s.first_position + s.num_tokens > 12;
  });
  for (int i = 0; i < 4; ++i)
    llm.add_request({.token_ids = numbers(12, i)}, {.max_tokens = 50, .ignore_eos = true}, nullptr);
  while (llm.has_unfinished_requests()) llm.step();
  EXPECT_GT(llm.stats().preemptions, 0);
  EXPECT_TRUE(was_preempted);
  EXPECT_TRUE(was_recomputed);
}

TEST_P(StepTraceOn, WatchingChangesNothingAndAThrowingObserverIsDropped) {
  auto answers = [this](StepObserver observer) {
    LLM llm(config(32));
    llm.set_step_observer(std::move(observer));
    std::vector<Prompt> prompts;
    for (int i = 0; i < 6; ++i) prompts.push_back({.token_ids = numbers(20 + i, i)});
    const SamplingParams params{.temperature = 1, .max_tokens = 12, .ignore_eos = true};
    std::vector<std::vector<int32_t>> tokens;
    for (const RequestOutput& out : llm.generate(prompts, {&params, 1}))
      tokens.push_back(out.outputs[0].token_ids);
    llm.check_integrity();
    return tokens;
  };
  const auto expected = answers(nullptr);
  int calls = 0;
  EXPECT_EQ(answers([&](const StepTrace&) { ++calls; }), expected);
  EXPECT_GT(calls, 12);
  calls = 0;
  EXPECT_EQ(answers([&](const StepTrace&) { ++calls, throw std::runtime_error("no"); }), expected);
  EXPECT_EQ(calls, 1);
}

TEST(StepTrace, SnapshotSeesWhatHappenedBetweenTwoSteps) {
  LLM llm(tiny_config());
  const SamplingParams params{.max_tokens = 50, .ignore_eos = true};
  const uint64_t a = llm.add_request({.token_ids = numbers(40)}, params, nullptr);
  EXPECT_EQ(llm.snapshot().sequences.at(0).status, Status::kWaiting);
  llm.step();
  StepTrace t = llm.snapshot();
  EXPECT_TRUE(t.batch.empty());
  EXPECT_EQ(t.step, 1);
  EXPECT_EQ(t.sequences.at(0).status, Status::kRunning);
  EXPECT_EQ(t.sequences[0].block_table.size(), 3);
  EXPECT_EQ(t.stats.kv_blocks_used, 3);
  llm.cancel(a);
  t = llm.snapshot();
  EXPECT_TRUE(t.sequences.empty());
  EXPECT_EQ(t.stats.kv_blocks_used, 0);
  EXPECT_EQ(std::ranges::count(t.blocks, true, &StepTraceBlock::is_cached), 2);
}

TEST(StepTrace, AnObserverMayCancelAndAdd) {
  LLM llm(tiny_config());
  const uint64_t id = llm.add_request({.token_ids = {1, 2, 3}}, {.max_tokens = 50}, nullptr);
  bool added = false;
  llm.set_step_observer([&](const StepTrace&) {
    llm.cancel(id);
    if (!added) llm.add_request({.token_ids = {4}}, {.max_tokens = 2}, nullptr);
    added = true;
  });
  llm.step();
  EXPECT_EQ(llm.stats().waiting, 1);
  llm.set_step_observer(nullptr);
  while (llm.has_unfinished_requests()) llm.step();
  llm.check_integrity();
}

}  // namespace
}  // namespace nanovllm
