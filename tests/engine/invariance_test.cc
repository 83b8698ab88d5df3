// Batch invariance, bitwise: a request's tokens and logprobs are the same alone or in company,
// whatever the block size, the token budget, the cache, the memory, the threads and the order,
// whoever is cancelled meanwhile, whichever step is given up half-way, whatever speculative
// decoding guesses, and whether the host draws the tokens or a device does, in steps that follow
// each other or overlap. The reference is each request alone in a roomy engine; each trial then
// runs all of them under random conditions and compares bit for bit, proving the scheduler's and
// the cache's invariants after every step.

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bit>
#include <random>
#include <thread>
#include <tuple>

#include "fake_device/fake_device.h"
#include "nanovllm/llm.h"

namespace nanovllm {
namespace {

struct TestRequest {
  Prompt prompt;
  SamplingParams params;
  RequestOptions options;
};

std::string model_path(const std::string& name) {
  return std::string(NANO_VLLM_SOURCE_DIR "/tests/data/tiny/") + name;
}

int64_t pick(std::mt19937& rng, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(rng);
}

// Prompts of 1 to 120 tokens, many of them continuing a common beginning, with every sampling
// parameter in use somewhere.
std::vector<TestRequest> make_requests(std::mt19937& rng, int64_t vocab_size, int count,
                                       bool has_tokenizer) {
  std::vector<int32_t> common;
  for (int i = 0; i < 80; ++i) common.push_back(static_cast<int32_t>(pick(rng, 0, vocab_size - 1)));
  std::vector<TestRequest> requests(count);
  for (TestRequest& r : requests) {
    if (pick(rng, 0, 1))
      r.prompt.token_ids.assign(common.begin(), common.begin() + pick(rng, 1, 80));
    const int64_t more = pick(rng, r.prompt.token_ids.empty() ? 1 : 0, 40);
    for (int64_t i = 0; i < more; ++i)
      r.prompt.token_ids.push_back(static_cast<int32_t>(pick(rng, 0, vocab_size - 1)));
    SamplingParams& p = r.params;
    p.temperature = pick(rng, 0, 2) ? 0.5 + 0.1 * static_cast<double>(pick(rng, 0, 10)) : 0.0;
    p.seed = pick(rng, 0, 1000);
    p.max_tokens = pick(rng, 0, 20);
    p.ignore_eos = pick(rng, 0, 1);
    p.logprobs = pick(rng, 0, 3);
    if (pick(rng, 0, 2) == 0) p.prompt_logprobs = pick(rng, 0, 2);
    if (pick(rng, 0, 2) == 0) p.top_k = pick(rng, 1, 30);
    if (pick(rng, 0, 2) == 0) p.top_p = 0.7;
    if (pick(rng, 0, 4) == 0) p.min_p = 0.05;
    if (pick(rng, 0, 3) == 0) p.repetition_penalty = 1.3;
    if (pick(rng, 0, 3) == 0) p.presence_penalty = 0.5, p.frequency_penalty = -0.3;
    if (pick(rng, 0, 3) == 0) p.logit_bias = {{3, 2.0}, {5, -100.0}};
    // An answer that repeats itself, as one that copies does.
    if (pick(rng, 0, 3) == 0) p.logit_bias = {{6, 9.0}, {7, 9.0}}, p.max_tokens += 10;
    if (pick(rng, 0, 3) == 0) p.min_tokens = std::min<int64_t>(p.max_tokens, 5);
    if (pick(rng, 0, 2) == 0)
      p.stop_token_ids = {static_cast<int32_t>(pick(rng, 0, vocab_size - 1))};
    if (has_tokenizer && pick(rng, 0, 2) == 0) p.stop = {"e", "the"};
    if (has_tokenizer && pick(rng, 0, 3) == 0)
      p.structured_outputs.regex = pick(rng, 0, 1) ? "[a-h ]{2,9}" : "(yes|no|maybe)( [a-z]{1,3})*";
    if (p.temperature > 0 && pick(rng, 0, 3) == 0) p.n = pick(rng, 2, 4);
    r.options.priority = static_cast<int>(pick(rng, 0, 2));
    if (pick(rng, 0, 3) == 0) r.options.cache_salt = "salt";
  }
  return requests;
}

void expect_same(const PositionLogprobs& a, const PositionLogprobs& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].token_id, b[i].token_id);
    ASSERT_EQ(std::bit_cast<uint32_t>(a[i].logprob), std::bit_cast<uint32_t>(b[i].logprob));
    ASSERT_EQ(a[i].rank, b[i].rank);
  }
}

void expect_same(const RequestOutput& a, const RequestOutput& b) {
  ASSERT_EQ(a.outputs.size(), b.outputs.size());
  ASSERT_EQ(a.prompt_logprobs.size(), b.prompt_logprobs.size());
  for (size_t i = 0; i < a.prompt_logprobs.size(); ++i)
    expect_same(a.prompt_logprobs[i], b.prompt_logprobs[i]);
  for (size_t i = 0; i < a.outputs.size(); ++i) {
    const CompletionOutput &x = a.outputs[i], &y = b.outputs[i];
    ASSERT_EQ(x.token_ids, y.token_ids);
    ASSERT_EQ(x.text, y.text);
    ASSERT_EQ(x.finish_reason, y.finish_reason);
    ASSERT_EQ(x.stop_reason, y.stop_reason);
    ASSERT_EQ(x.logprobs.size(), y.logprobs.size());
    for (size_t t = 0; t < x.logprobs.size(); ++t) expect_same(x.logprobs[t], y.logprobs[t]);
  }
}

enum class Draws { kHost, kDevice, kDeviceOverlapping };
constexpr const char* kDrawsNames[] = {"Host", "Device", "DeviceOverlapping"};

class InvarianceTest : public testing::TestWithParam<std::tuple<const char*, Draws>> {};

TEST_P(InvarianceTest, TokensAndLogprobsDoNotDependOnCompany) {
  const auto [model, draws] = GetParam();
  std::mt19937 rng(20240521);
  EngineConfig config{.model = model_path(model), .kv_cache_memory_bytes = 16 << 20, .threads = 1};
  LLM alone(config);
  const auto requests = make_requests(rng, alone.info().vocab_size, 24, alone.info().has_tokenizer);
  std::vector<RequestOutput> reference;
  for (const TestRequest& r : requests)
    reference.push_back(alone.generate({&r.prompt, 1}, {&r.params, 1})[0]);

  const FakeDevice device;
  const int64_t bytes_per_token = alone.memory_plan().kv_bytes_per_token;
  int64_t preemptions = 0, cached = 0, drafted = 0, accepted = 0, dropped = 0;
  std::atomic<bool> give_up = false;
  const std::jthread spoiler([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      std::this_thread::sleep_for(std::chrono::microseconds(300));
      give_up = true;
    }
  });
  for (int trial = 0; trial < 16; ++trial) {
    // Of its own: how often the loop below draws depends on time.
    std::mt19937 setting(trial);
    EngineConfig c = config;
    c.block_size = std::array{1, 2, 7, 16, 256}[pick(setting, 0, 4)];
    c.max_num_batched_tokens = std::array{1, 2, 5, 17, 64, 512}[pick(setting, 0, 5)];
    c.max_num_seqs = pick(setting, 1, 24);
    c.enable_prefix_caching = pick(setting, 0, 1);
    c.threads = pick(setting, 1, 2);
    c.device = draws == Draws::kHost ? "cpu" : "cuda";
    c.async_scheduling = draws == Draws::kDeviceOverlapping;
    // Who guesses does not overlap.
    if (c.async_scheduling ? pick(setting, 0, 3) == 0 : pick(setting, 0, 2) > 0) {
      const int64_t lookup_max = pick(setting, 1, 4);
      c.speculative_config = {"ngram", pick(setting, 1, 7), lookup_max,
                              pick(setting, 1, lookup_max)};
    }
    // Sometimes memory for one request and a little more.
    const int64_t blocks = pick(setting, 0, 1)
                               ? (160 + c.block_size - 1) / c.block_size + pick(setting, 0, 3)
                               : 4096 / c.block_size;
    c.kv_cache_memory_bytes = blocks * c.block_size * bytes_per_token;
    c.max_model_len = std::min<int64_t>(160, blocks * c.block_size);
    SCOPED_TRACE(testing::Message()
                 << model << " trial " << trial << ": block_size " << c.block_size << " budget "
                 << c.max_num_batched_tokens << " seqs " << c.max_num_seqs << " blocks " << blocks
                 << " caching " << c.enable_prefix_caching << " threads " << c.threads << " drafts "
                 << c.speculative_config.num_speculative_tokens);
    LLM llm(c);
    std::vector<size_t> order(requests.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), rng);

    std::vector<RequestOutput> outputs(requests.size());
    std::vector<int> finished(requests.size(), 0);
    std::vector<std::array<int64_t, 4>> streamed(requests.size(), {0, 0, 0, 0});
    std::vector<uint64_t> ids(requests.size(), 0), doomed;
    size_t next = 0;
    while (next < order.size() || llm.has_unfinished_requests()) {
      // Requests trickle in, and now and then one that is going to be cancelled.
      for (int64_t arrivals = pick(rng, 0, 4); arrivals > 0 && next < order.size();
           --arrivals, ++next) {
        const size_t i = order[next];
        ids[i] = llm.add_request(
            requests[i].prompt, requests[i].params,
            [&, i](const StreamEvent& event) {
              ASSERT_EQ(finished[i], 0);
              if (event.token_id >= 0) {  // one event a token, in order
                ASSERT_EQ(event.output->outputs[event.index].token_ids.back(), event.token_id);
                ASSERT_EQ(std::ssize(event.output->outputs[event.index].token_ids),
                          ++streamed[i][event.index]);
              }
              if (event.request_finished) outputs[i] = *event.output, ++finished[i];
            },
            requests[i].options);
        if (pick(rng, 0, 2) == 0)
          doomed.push_back(
              llm.add_request(requests[pick(rng, 0, 23)].prompt, requests[i].params, nullptr));
      }
      if (!doomed.empty() && pick(rng, 0, 3) == 0) {
        llm.cancel(doomed.back());
        doomed.pop_back();
        llm.check_integrity();
      }
      if (!llm.step(&give_up)) {
        llm.check_integrity();
        give_up = false;
        llm.step();
      }
      llm.check_integrity();
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "request " << i);
      ASSERT_EQ(finished[i], 1);
      expect_same(reference[i], outputs[i]);
      if (HasFatalFailure()) return;
    }
    EXPECT_EQ(llm.stats().kv_blocks_used, 0);
    const EngineStats stats = llm.stats();
    preemptions += stats.preemptions;
    cached += stats.prompt_tokens_cached;
    drafted += stats.num_draft_tokens;
    accepted += stats.num_accepted_tokens;
    dropped += stats.steps_dropped;
    EXPECT_EQ(stats.num_drafts > 0, c.speculative_config.enabled() && stats.num_draft_tokens > 0);
    EXPECT_LE(stats.num_drafts, stats.num_draft_tokens);
  }
  // The trials must have met what they are for.
  EXPECT_GT(preemptions, 0);
  EXPECT_GT(cached, 0);
  EXPECT_GT(dropped, 0);
  EXPECT_GT(accepted, 30);
  EXPECT_GT(drafted - accepted, 30);
  EXPECT_EQ(device->steps > 0, draws != Draws::kHost);
  EXPECT_EQ(device->overlapped > 1000, draws == Draws::kDeviceOverlapping) << device->overlapped;
  EXPECT_EQ(device->pending_ids > 1000, draws == Draws::kDeviceOverlapping) << device->pending_ids;
}

INSTANTIATE_TEST_SUITE_P(
    Models, InvarianceTest,
    testing::Combine(testing::Values("llama-gqa", "qwen3", "mistral", "llama-chat"),
                     testing::Values(Draws::kHost, Draws::kDevice, Draws::kDeviceOverlapping)),
    [](const auto& info) {
      std::string name = std::get<0>(info.param);
      std::erase(name, '-');
      return name + kDrawsNames[static_cast<int>(std::get<1>(info.param))];
    });

}  // namespace
}  // namespace nanovllm
