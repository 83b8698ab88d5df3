// The engine on a device that draws its own tokens (a fake one): steps that overlap, the memory
// plan, passes recorded at the start. That tokens are the same is invariance_test.cc's.

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <regex>

#include "fake_device/fake_device.h"
#include "nanovllm/llm.h"

namespace nanovllm {
namespace {

EngineConfig device_config(const std::string& model = "llama-gqa") {
  return {.model = NANO_VLLM_SOURCE_DIR "/tests/data/tiny/" + model,
          .kv_cache_memory_bytes = 4 << 20,
          .device = "cuda"};
}

Prompt device_prompt(std::vector<int32_t> token_ids) { return {.token_ids = std::move(token_ids)}; }

TEST(Device, IsChosenAndNamed) {
  const FakeDevice device;
  for (const char* name : {"auto", "cuda"}) {
    EngineConfig config = device_config();
    config.device = name;
    const LLM llm(config);
    EXPECT_EQ(llm.info().backend, "fake device");
    EXPECT_EQ(llm.config().device, "cuda");
    EXPECT_EQ(llm.config().max_num_seqs, 256);
    EXPECT_EQ(llm.config().max_num_batched_tokens, 8192);
  }
  EngineConfig config = device_config();
  config.device = "cpu";
  config.short_steps = true;
  const LLM llm(config);
  EXPECT_EQ(llm.config().max_num_seqs, 64);
  EXPECT_EQ(llm.config().max_num_batched_tokens, 128);
}

// A length-limited sequence is not scheduled for a token that it may not have: as many steps as
// without overlap.
TEST(Device, OverlapTakesNoMoreSteps) {
  int64_t steps[2], tokens[2];
  for (const bool overlap : {false, true}) {
    const FakeDevice device;
    EngineConfig config = device_config();
    config.async_scheduling = overlap;
    config.max_num_seqs = 3;
    LLM llm(config);
    for (int i = 0; i < 7; ++i)
      llm.add_request(device_prompt({1, 2, 3, i}), {.max_tokens = 4 + i, .ignore_eos = true},
                      nullptr);
    while (llm.has_unfinished_requests()) {
      llm.step();
      llm.check_integrity();
    }
    steps[overlap] = llm.stats().steps;
    tokens[overlap] = llm.stats().tokens_generated;
    EXPECT_EQ(device->steps, llm.stats().steps);
    EXPECT_EQ(device->overlapped > 0, overlap);
  }
  EXPECT_EQ(tokens[1], 4 + 5 + 6 + 7 + 8 + 9 + 10);
  EXPECT_EQ(tokens[0], tokens[1]);
  EXPECT_LE(steps[1], steps[0]);
}

// Who stops by a token has a share in the step under way. That is waited for when nobody else is
// left, and what it computed changes nothing.
TEST(Device, AStopIsNoticedOneStepLater) {
  const FakeDevice device;
  LLM llm(device_config());
  const SamplingParams plain{.temperature = 0, .max_tokens = 9, .ignore_eos = true};
  const Prompt prompt = device_prompt({5, 6, 7});
  const auto expected = llm.generate({&prompt, 1}, {&plain, 1})[0].outputs[0].token_ids;
  const int64_t before = llm.stats().steps;
  SamplingParams stopping = plain;
  stopping.stop_token_ids = {expected[3]};
  const auto first = std::ranges::find(expected, expected[3]) - expected.begin();
  const RequestOutput out = llm.generate({&prompt, 1}, {&stopping, 1})[0];
  EXPECT_EQ(std::ssize(out.outputs[0].token_ids), first + 1);
  EXPECT_EQ(out.outputs[0].finish_reason, FinishReason::kStop);
  EXPECT_FALSE(llm.has_unfinished_requests());
  EXPECT_EQ(llm.stats().steps - before, first + 2);
  EXPECT_EQ(device->steps, llm.stats().steps);
  EXPECT_EQ(llm.stats().kv_blocks_used, 0);
  llm.check_integrity();
  // The cache holds only what was known.
  EXPECT_EQ(llm.generate({&prompt, 1}, {&plain, 1})[0].outputs[0].token_ids, expected);
}

TEST(Device, CancelledWithAStepUnderWay) {
  const FakeDevice device;
  LLM llm(device_config());
  int events = 0, aborts = 0;
  auto count = [&](const StreamEvent& e) {
    ++events, aborts += e.finish_reason == FinishReason::kAbort;
  };
  const SamplingParams params{.max_tokens = 50, .ignore_eos = true};
  const uint64_t a = llm.add_request(device_prompt({1, 2, 3}), params, count);
  llm.step();
  EXPECT_EQ(events, 0);  // its first token is under way
  llm.cancel(a);
  EXPECT_EQ(events, 1);
  EXPECT_EQ(aborts, 1);
  EXPECT_FALSE(llm.has_unfinished_requests());
  llm.check_integrity();
  // The next request's step reads what is left of it.
  const Prompt prompt = device_prompt({1, 2, 3});
  const auto out = llm.generate({&prompt, 1}, {&params, 1})[0];
  EXPECT_EQ(out.outputs[0].token_ids.size(), 50);
  EXPECT_EQ(events, 1);
  // From the callback of another, whose next token is under way.
  uint64_t b = 0;
  const uint64_t c = llm.add_request(device_prompt({4, 5}), params, [&](const StreamEvent& e) {
    if (e.finish_reason == FinishReason::kNone) llm.cancel(b);
  });
  b = llm.add_request(device_prompt({6, 7}), params, count);
  while (llm.has_unfinished_requests()) {
    llm.step();
    llm.check_integrity();
  }
  EXPECT_EQ(aborts, 2);
  llm.cancel(c);
  llm.add_request(device_prompt({1}), params, count);
  llm.step();  // and the engine ends with a step under way
}

TEST(Device, AGivenUpStepLeavesTheOneUnderWayAsItIs) {
  const FakeDevice device;
  LLM llm(device_config());
  const SamplingParams params{.temperature = 1, .seed = 3, .max_tokens = 30, .ignore_eos = true};
  const Prompt prompt = device_prompt({9, 8, 7});
  const auto expected = llm.generate({&prompt, 1}, {&params, 1})[0].outputs[0].token_ids;
  std::vector<int32_t> tokens;
  llm.add_request(prompt, params, [&](const StreamEvent& e) { tokens.push_back(e.token_id); });
  const std::atomic<bool> give_up = true;
  for (int i = 0; llm.has_unfinished_requests(); ++i) {
    const bool last = tokens.size() == 29;  // only its token is left to take
    EXPECT_EQ(llm.step(i % 3 ? &give_up : nullptr), i % 3 == 0 || last);
    llm.check_integrity();
  }
  EXPECT_EQ(tokens, expected);
  EXPECT_GT(llm.stats().steps_dropped, 30);
}

TEST(Device, PassesAreRecordedBeforeTheFirstRequest) {
  const FakeDevice device;
  device->recorded_sizes = {1, 2, 4, 8, 16};
  EngineConfig config = device_config();
  config.max_num_seqs = 8;
  LLM llm(config);
  EXPECT_EQ(device->first_passes, (std::vector<int32_t>{1, 2, 4, 8}));
  EXPECT_EQ(llm.stats().steps, 0);
  config.max_num_batched_tokens = 3;
  device->first_passes.clear();
  LLM small(config);
  EXPECT_EQ(device->first_passes, (std::vector<int32_t>{1, 2}));
}

// ---- memory

struct Refusal {
  std::string flag, reason;
  int64_t bytes = 0;  // "N bytes more than"
};

Refusal refusal(const EngineConfig& config) {
  try {
    LLM llm(config);
  } catch (const InvalidArgument& e) {
    const std::string reason = e.reason();
    std::smatch match;
    std::regex_search(reason, match, std::regex("(\\d+) bytes more than"));
    return {e.where(), reason, match.empty() ? 0 : std::stoll(match[1])};
  }
  return {"accepted"};
}

class DeviceMemoryTest : public testing::Test {
 protected:
  DeviceMemoryTest() {
    config_.kv_cache_memory_bytes = 0;
    config_.max_model_len = 256;
    config_.max_num_batched_tokens = 64;
    device_->total_bytes = int64_t{80} << 30;
    device_->reserved_bytes = 10 << 20;
    device_->free_bytes = 100 << 20;
    const LLM llm(config_);
    plan_ = llm.memory_plan();
    fixed_ = plan_.weights_bytes + plan_.activation_bytes + plan_.reserved_bytes;
    one_sequence_ = 256 * plan_.kv_bytes_per_token;
  }
  const FakeDevice device_;
  EngineConfig config_ = device_config();
  MemoryPlan plan_;
  int64_t fixed_ = 0, one_sequence_ = 0;
};

TEST_F(DeviceMemoryTest, TheCacheTakesItsShareOfWhatIsFree) {
  EXPECT_EQ(plan_.free_bytes, 100 << 20);
  EXPECT_EQ(plan_.reserved_bytes, 10 << 20);
  config_.max_num_seqs = 65536;  // more than have room
  for (const double share : {0.3, 0.9, 1.0}) {
    config_.gpu_memory_utilization = share;
    const LLM llm(config_);
    const auto usable = static_cast<int64_t>(share * (100 << 20));
    EXPECT_LE(llm.memory_plan().total_bytes(), usable);
    EXPECT_GT(llm.memory_plan().total_bytes(), usable - 16 * plan_.kv_bytes_per_token - 1);
  }
  config_.kv_cache_memory_bytes = 1 << 20;  // says all
  config_.gpu_memory_utilization = 0.01;
  EXPECT_EQ(refusal(config_).flag, "accepted");
  device_->total_bytes = 0;  // the host's memory is nobody's to plan
  EXPECT_EQ(LLM(config_).memory_plan().free_bytes, 0);
}

TEST_F(DeviceMemoryTest, AShareThatIsTooSmall) {
  config_.gpu_memory_utilization = 0.01;
  const Refusal r = refusal(config_);
  EXPECT_EQ(r.flag, "--gpu-memory-utilization") << r.reason;
  EXPECT_EQ(r.bytes, fixed_ + one_sequence_ - (1 << 20)) << r.reason;
  std::smatch advice;
  ASSERT_TRUE(std::regex_search(r.reason, advice, std::regex("raise it to ([0-9.]+)$")));
  config_.gpu_memory_utilization = std::stod(advice[1]);
  EXPECT_EQ(refusal(config_).flag, "accepted");
  config_.gpu_memory_utilization -= 0.002;
  EXPECT_EQ(refusal(config_).flag, "--gpu-memory-utilization");
}

TEST_F(DeviceMemoryTest, ASequenceThatIsTooLong) {
  config_.max_num_batched_tokens = 1;
  config_.gpu_memory_utilization = 1;
  config_.max_model_len = 512;
  device_->reserved_bytes = 0;
  device_->free_bytes = int64_t{1} << 30;
  const MemoryPlan roomy = LLM(config_).memory_plan();
  const int64_t needed =
      roomy.total_bytes() - roomy.kv_cache_bytes + 512 * roomy.kv_bytes_per_token;
  device_->free_bytes = needed - 5;
  const Refusal r = refusal(config_);
  EXPECT_EQ(r.flag, "--max-model-len") << r.reason;
  EXPECT_EQ(r.bytes, 5) << r.reason;
  device_->free_bytes += 5;
  EXPECT_EQ(refusal(config_).flag, "accepted");
  device_->free_bytes -= 5;
  config_.max_model_len = 0;  // as many as fit
  const LLM llm(config_);
  EXPECT_GT(llm.config().max_model_len, 256);
  EXPECT_LT(llm.config().max_model_len, 513);
}

TEST_F(DeviceMemoryTest, ACacheThatIsTooLarge) {
  config_.kv_cache_memory_bytes = 100 << 20;
  Refusal r = refusal(config_);
  EXPECT_EQ(r.flag, "--kv-cache-memory-bytes") << r.reason;
  EXPECT_EQ(r.bytes, fixed_) << r.reason;
  config_.kv_cache_memory_bytes -= r.bytes;
  EXPECT_EQ(refusal(config_).flag, "accepted");
  config_.kv_cache_memory_bytes += 1;
  EXPECT_EQ(refusal(config_).flag, "--kv-cache-memory-bytes");
}

TEST_F(DeviceMemoryTest, AModelThatIsTooLarge) {
  config_.gpu_memory_utilization = 1;
  device_->free_bytes = fixed_ - 1000;
  const Refusal r = refusal(config_);
  EXPECT_EQ(r.flag, "--device") << r.reason;
  EXPECT_EQ(r.bytes, 1000 + one_sequence_) << r.reason;
}

}  // namespace
}  // namespace nanovllm
