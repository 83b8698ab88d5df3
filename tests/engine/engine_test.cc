// The engine through its public door: what it refuses, what it cancels, what it allocates, how text
// stops.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <tuple>

#include "fake_device/fake_device.h"
#include "nanovllm/inspect.h"
#include "nanovllm/llm.h"

// Counts allocations, to prove that a steady decode step makes none. Sanitizers bring allocators of
// their own, which check more if they are left alone.
#ifndef NANO_VLLM_SANITIZED
#define COUNTS_ALLOCATIONS
// GCC 12 sees through the replaced operators and then takes malloc and free for a mismatch.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif
static std::atomic<int64_t> allocations{0};
void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size)) return p;
  throw std::bad_alloc();
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
#endif

namespace nanovllm {
namespace {

EngineConfig config_for(const std::string& model) {
  return {.model = NANO_VLLM_SOURCE_DIR "/tests/data/tiny/" + model,
          .kv_cache_memory_bytes = 4 << 20,
          .threads = 2};
}

Prompt ids(std::vector<int32_t> token_ids) { return {.token_ids = std::move(token_ids)}; }

#ifdef COUNTS_ALLOCATIONS
TEST(Engine, SteadyDecodeStepsAllocateNothing) {
  // Without and with a tokenizer, without and with drafts, and with a device whose steps overlap.
  const FakeDevice fake;
  for (const auto& [model, drafts, device] : {std::tuple("llama-gqa", 0, "cpu"),
                                              {"llama-chat", 0, "cpu"},
                                              {"llama-gqa", 1, "cpu"},
                                              {"llama-chat", 1, "cpu"},
                                              {"llama-gqa", 0, "cuda"}}) {
    EngineConfig config = config_for(model);
    config.device = device;
    if (drafts) config.speculative_config = {"ngram", drafts, 2, 1};
    LLM llm(config);
    for (int i = 0; i < 5; ++i)
      llm.add_request(ids({1, 2, 3, static_cast<int32_t>(i)}),
                      {.temperature = i % 2 ? 0.8 : 0.0,
                       .top_k = i,
                       .top_p = 0.9,
                       .max_tokens = 300,
                       .ignore_eos = true},
                      [](const StreamEvent&) {});
    for (int i = 0; i < 20; ++i) llm.step();
    const bool has_tokenizer = llm.info().has_tokenizer;
    const int64_t before = allocations;
    for (int i = 0; i < 100; ++i) llm.step();
    const int64_t made = allocations - before;
    // Growing text grows strings: a handful of doublings, nothing a step.
    EXPECT_LE(made, has_tokenizer ? 5 * 20 : 0) << model;
    EXPECT_TRUE(llm.has_unfinished_requests());
    EXPECT_EQ(llm.stats().num_accepted_tokens > 0, drafts > 0);
  }
}
#endif

TEST(Engine, RefusesWhatCouldNeverRun) {
  EngineConfig config = config_for("llama-gqa");
  config.max_model_len = 64;
  LLM llm(config);
  auto refused = [&](const Prompt& prompt, const SamplingParams& params) {
    try {
      llm.add_request(prompt, params, nullptr);
    } catch (const InvalidArgument& e) {
      return e.where();
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refused(ids({}), {}), "prompt");
  EXPECT_EQ(refused(ids({1, 101}), {}), "prompt");
  EXPECT_EQ(refused(ids({1, -1}), {}), "prompt");
  EXPECT_EQ(refused(ids(std::vector<int32_t>(65, 1)), {.max_tokens = 0}), "prompt");
  EXPECT_EQ(refused(ids({1}), {.max_tokens = 64}), "max_tokens");
  EXPECT_EQ(refused(ids({1}), {.temperature = -1}), "temperature");
  EXPECT_EQ(refused(ids({1}), {.top_p = 0}), "top_p");
  EXPECT_EQ(refused(ids({1}), {.logit_bias = {{101, 1.0}}}), "logit_bias");
  EXPECT_EQ(refused(ids({1}), {.n = 0}), "n");
  EXPECT_EQ(refused(ids({1}), {.stop = {"a"}}), "stop");  // no tokenizer to see it with
  EXPECT_FALSE(llm.has_unfinished_requests());
  EXPECT_EQ(refused(ids({1}), {.max_tokens = 63}), "accepted");
}

TEST(Engine, FlagsThatDoNotFitTogetherAreNamed) {
  auto refused = [](auto change) {
    EngineConfig config = config_for("llama-gqa");
    change(config);
    try {
      LLM llm(config);
    } catch (const InvalidArgument& e) {
      return e.where();
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refused([](EngineConfig& c) { c.max_model_len = 100000; }), "--max-model-len");
  EXPECT_EQ(refused([](EngineConfig& c) { c.kv_cache_memory_bytes = 1; }),
            "--kv-cache-memory-bytes");
  EXPECT_EQ(refused([](EngineConfig& c) { c.kv_cache_memory_bytes = 4096, c.max_model_len = 512; }),
            "--max-model-len");
  EXPECT_EQ(refused([](EngineConfig& c) { c.block_size = 0; }), "--block-size");
  EXPECT_EQ(refused([](EngineConfig& c) { c.device = "cuda"; }), "--device");
  EXPECT_EQ(refused([](EngineConfig& c) { c.dtype = "float8"; }), "--dtype");
  EXPECT_EQ(refused([](EngineConfig& c) { c.speculative_config.method = "eagle"; }),
            "--speculative-config");
  EXPECT_EQ(refused([](EngineConfig&) {}), "accepted");
}

TEST(Engine, CancelAtAnyMomentIncludingFromACallback) {
  LLM llm(config_for("llama-gqa"));
  int aborts = 0, events = 0;
  auto count = [&](const StreamEvent& e) {
    ++events, aborts += e.finish_reason == FinishReason::kAbort;
  };
  const SamplingParams params{.max_tokens = 50, .ignore_eos = true};
  const uint64_t waiting = llm.add_request(ids({1, 2, 3}), params, count);
  llm.cancel(waiting);  // before its first step
  EXPECT_EQ(aborts, 1);
  llm.cancel(waiting);  // again: nothing
  EXPECT_EQ(aborts, 1);
  const uint64_t running = llm.add_request(ids({1, 2, 3}), params, count);
  llm.step();
  llm.cancel(running);
  EXPECT_EQ(aborts, 2);
  // Two of four sequences see their second token, then everything is over.
  uint64_t self = 0;
  self = llm.add_request(
      ids({4, 5}), {.max_tokens = 50, .ignore_eos = true, .n = 4}, [&](const StreamEvent& e) {
        count(e);
        if (e.output->outputs[1].token_ids.size() == 2 && e.finish_reason == FinishReason::kNone)
          llm.cancel(self);
      });
  // And a request that a callback adds runs like any other.
  int late = 0;
  llm.add_request(ids({7}), {.max_tokens = 1}, [&](const StreamEvent&) {
    llm.add_request(ids({8}), {.max_tokens = 2, .ignore_eos = true},
                    [&](const StreamEvent& e) { late += e.request_finished; });
  });
  while (llm.has_unfinished_requests()) {
    llm.step();
    llm.check_integrity();
  }
  EXPECT_EQ(aborts, 3);
  EXPECT_EQ(late, 1);
  EXPECT_EQ(llm.stats().kv_blocks_used, 0);
}

// What the callback of a cancelled request holds lives until it returns, although it cancels
// others.
TEST(Engine, CancelFromTheCallbackOfACancel) {
  LLM llm(config_for("llama-gqa"));
  const SamplingParams params{.max_tokens = 50, .ignore_eos = true};
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = held;
  const uint64_t other = llm.add_request(ids({1, 2}), params, [](const StreamEvent&) {});
  const uint64_t first =
      llm.add_request(ids({3}), params, [&llm, &watched, other, held](const StreamEvent& e) {
        if (e.finish_reason != FinishReason::kAbort) return;
        llm.cancel(other);
        llm.cancel(e.request_id);
        ++*watched.lock();
      });
  held.reset();
  llm.cancel(first);
  EXPECT_TRUE(watched.expired());
  EXPECT_FALSE(llm.has_unfinished_requests());
  EXPECT_EQ(llm.stats().kv_blocks_used, 0);
}

TEST(Engine, ACallbackThatThrowsEndsOnlyItsOwnRequest) {
  LLM llm(config_for("llama-gqa"));
  const SamplingParams params{.temperature = 0, .max_tokens = 8, .ignore_eos = true};
  const auto reference =
      llm.generate(std::vector{ids({1, 2})}, {&params, 1})[0].outputs[0].token_ids;
  llm.add_request(ids({3}), params, [](const StreamEvent&) { throw std::runtime_error("mine"); });
  std::vector<int32_t> tokens;
  llm.add_request(ids({1, 2}), params, [&](const StreamEvent& e) { tokens.push_back(e.token_id); });
  while (llm.has_unfinished_requests()) llm.step();
  EXPECT_EQ(tokens, reference);
}

// A request whose answer is token 7 over and over: every draft after the first few tokens is right.
SamplingParams repeating(int64_t max_tokens) {
  return {
      .temperature = 0, .logit_bias = {{7, 100.0}}, .max_tokens = max_tokens, .ignore_eos = true};
}

TEST(Engine, RightDraftsSpareSteps) {
  EngineConfig config = config_for("llama-gqa");
  config.speculative_config = {"ngram", 5, 3, 1};
  LLM llm(config);
  int events = 0;
  llm.add_request(ids({1, 2, 3}), repeating(100), [&](const StreamEvent& e) {
    EXPECT_EQ(e.token_id, 7);
    EXPECT_EQ(std::ssize(e.output->outputs[0].token_ids), ++events);
    EXPECT_EQ(e.request_finished, events == 100);
  });
  while (llm.has_unfinished_requests()) {
    llm.step();
    llm.check_integrity();
  }
  const EngineStats stats = llm.stats();
  EXPECT_EQ(events, 100);
  EXPECT_EQ(stats.tokens_generated, 100);
  // The prompt's step and one more give two tokens, the second of which repeats the first; then
  // 16 steps of six tokens, and one of the last two: their draft stops short of max_tokens.
  EXPECT_EQ(stats.steps, 2 + 16 + 1);
  EXPECT_EQ(stats.num_drafts, 17);
  EXPECT_EQ(stats.num_draft_tokens, 16 * 5 + 1);
  EXPECT_EQ(stats.num_accepted_tokens, 16 * 5 + 1);
}

// The sequence ends between two tokens of one draft; what was computed behind them counts nowhere.
TEST(Engine, ASequenceMayEndInTheMiddleOfItsDraft) {
  EngineConfig config = config_for("llama-chat");
  config.speculative_config = {"ngram", 8, 2, 1};
  config.block_size = 2;
  enum End { kCancel, kThrow, kStopToken, kStopString };
  for (const End end : {kCancel, kThrow, kStopToken, kStopString})
    for (int at = 1; at <= 24; ++at) {
      LLM llm(config);
      SamplingParams params = repeating(40);
      params.min_tokens = end == kStopToken || end == kStopString ? at - 1 : 0;
      if (end == kStopToken) params.stop_token_ids = {7};
      if (end == kStopString) params.stop = {llm.token_text(7)};
      if (end == kStopToken) params.logit_bias[9] = 50;  // what is drawn while 7 is masked
      int tokens = 0, finished = 0;
      uint64_t id = 0;
      id = llm.add_request(ids({1, 2, 3}), params, [&](const StreamEvent& e) {
        tokens += e.token_id >= 0;
        finished += e.request_finished;
        if (tokens == at && end == kCancel) llm.cancel(id);
        if (tokens == at && end == kThrow && e.token_id >= 0) throw std::runtime_error("mine");
      });
      while (llm.has_unfinished_requests()) {
        llm.step();
        llm.check_integrity();
      }
      EXPECT_EQ(tokens, at) << end;
      EXPECT_EQ(finished, 1) << end;
      EXPECT_EQ(llm.stats().tokens_generated, at) << end;
      EXPECT_EQ(llm.stats().kv_blocks_used, 0) << end;
    }
}

// Preempted while its prompt is being scored, a sequence starts its prompt again but scores each
// position once.
TEST(Engine, PreemptionDoesNotScoreAPromptTwice) {
  EngineConfig config = config_for("llama-gqa");
  config.block_size = 4;
  config.max_model_len = 64;
  config.max_num_batched_tokens = 3;
  config.kv_cache_memory_bytes = 17 * 4 * LLM(config).memory_plan().kv_bytes_per_token;
  const SamplingParams scored{.max_tokens = 1, .ignore_eos = true, .prompt_logprobs = 0};
  Prompt prompt;
  for (int32_t i = 0; i < 36; ++i) prompt.token_ids.push_back(i * 7 % 100);
  LLM alone(config), llm(config);
  const auto expected = alone.generate({&prompt, 1}, {&scored, 1})[0];
  RequestOutput output;
  // A decode that grows while the prompt is scored takes its blocks.
  llm.add_request(ids(std::vector<int32_t>(21, 3)), {.max_tokens = 40, .ignore_eos = true},
                  nullptr);
  while (llm.stats().tokens_generated < 2) llm.step();
  llm.add_request(prompt, scored, [&](const StreamEvent& e) { output = *e.output; });
  while (llm.has_unfinished_requests()) llm.step();
  EXPECT_GT(llm.stats().preemptions, 0);
  ASSERT_EQ(output.prompt_logprobs.size(), expected.prompt_logprobs.size());
  for (size_t i = 1; i < output.prompt_logprobs.size(); ++i)
    EXPECT_EQ(output.prompt_logprobs[i][0].logprob, expected.prompt_logprobs[i][0].logprob);
}

TEST(Engine, StreamedTextIsTheWholeText) {
  LLM llm(config_for("llama-chat"));
  std::string streamed;
  RequestOutput whole;
  llm.add_request({.text = "Hello"},
                  {.seed = 5, .max_tokens = 100, .ignore_eos = true, .skip_special_tokens = false},
                  [&](const StreamEvent& e) {
                    streamed += e.text;
                    if (e.request_finished) whole = *e.output;
                  });
  while (llm.has_unfinished_requests()) llm.step();
  EXPECT_EQ(streamed, whole.outputs[0].text);
  EXPECT_EQ(streamed, llm.decode(whole.outputs[0].token_ids, false));
}

TEST(Engine, StopStringsEndTheTextWhereverTheTokensBreak) {
  LLM llm(config_for("llama-chat"));
  const SamplingParams params{.seed = 5, .max_tokens = 60, .ignore_eos = true};
  const Prompt prompt{.text = "Hello"};
  const std::string full = llm.generate({&prompt, 1}, {&params, 1})[0].outputs[0].text;
  // Every piece of the text, as a stop string, ends it at its first occurrence.
  for (size_t from = 3; from + 4 < full.size(); from += 3)
    for (size_t length : {1, 2, 4}) {
      const std::string stop = full.substr(from, length);
      for (bool include : {false, true}) {
        SamplingParams p = params;
        p.stop = {stop, "never in any text"};
        p.include_stop_str_in_output = include;
        std::string streamed;
        RequestOutput out;
        llm.add_request(prompt, p, [&](const StreamEvent& e) {
          streamed += e.text;
          if (e.request_finished) out = *e.output;
        });
        while (llm.has_unfinished_requests()) llm.step();
        EXPECT_EQ(out.outputs[0].text, full.substr(0, full.find(stop) + (include ? length : 0)));
        EXPECT_EQ(streamed, out.outputs[0].text);
        EXPECT_EQ(out.outputs[0].finish_reason, FinishReason::kStop);
        EXPECT_EQ(out.outputs[0].stop_reason, stop);
      }
    }
}

TEST(Engine, SeveralEosIdsAndIgnoreEos) {
  LLM llm(config_for("llama-gqa"));
  const SamplingParams free{.seed = 1, .max_tokens = 60, .ignore_eos = true};
  const Prompt prompt = ids({1, 2, 3});
  const auto tokens = llm.generate({&prompt, 1}, {&free, 1})[0].outputs[0].token_ids;
  ASSERT_EQ(tokens.size(), 60u);
  SamplingParams p = free;
  p.stop_token_ids = {tokens[10], tokens[20]};
  const auto out = llm.generate({&prompt, 1}, {&p, 1})[0].outputs[0];
  const size_t expected =
      std::min(std::find(tokens.begin(), tokens.end(), tokens[10]) - tokens.begin(),
               std::find(tokens.begin(), tokens.end(), tokens[20]) - tokens.begin()) +
      1;
  EXPECT_EQ(out.token_ids.size(), expected);
  EXPECT_EQ(out.stop_reason, std::to_string(out.token_ids.back()));
}

TEST(Engine, PriorityGoesFirst) {
  EngineConfig config = config_for("llama-gqa");
  config.max_num_seqs = 1;
  LLM llm(config);
  std::vector<int> order;
  for (int priority : {2, 0, 1, 0})
    llm.add_request(ids({1}), {.max_tokens = 2, .ignore_eos = true},
                    [&, priority](const StreamEvent& e) {
                      if (e.request_finished) order.push_back(priority);
                    },
                    {.priority = priority});
  while (llm.has_unfinished_requests()) llm.step();
  EXPECT_EQ(order, (std::vector<int>{0, 0, 1, 2}));
}

TEST(Engine, ALongPromptDoesNotFreezeARunningDecode) {
  EngineConfig config = config_for("llama-gqa");
  config.max_num_batched_tokens = 16;
  LLM llm(config);
  int decoded = 0;
  llm.add_request(ids({1}), {.max_tokens = 100, .ignore_eos = true},
                  [&](const StreamEvent&) { ++decoded; });
  llm.step();
  llm.add_request(ids(std::vector<int32_t>(300, 5)), {.max_tokens = 1}, nullptr);
  for (int i = 0; i < 10; ++i) llm.step();
  EXPECT_EQ(decoded, 11);  // one token every step, while the prompt's chunks went along
}

TEST(Engine, InspectPlansWhatLoadingTakes) {
  for (const char* model : {"llama-gqa", "qwen3", "mistral", "qwen2", "llama-chat"}) {
    const EngineConfig config = config_for(model);
    const ModelInspection inspection = inspect_model(config);
    LLM llm(config);
    EXPECT_EQ(inspection.plan.weights_bytes, llm.memory_plan().weights_bytes) << model;
    EXPECT_EQ(inspection.plan.num_kv_blocks, llm.memory_plan().num_kv_blocks);
    EXPECT_GT(inspection.tensors.size(), 10u);
  }
}

}  // namespace
}  // namespace nanovllm
