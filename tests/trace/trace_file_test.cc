// TraceFile: every step, chunk and decode of a run is in the file with the right times, whatever
// happens to the requests, and the file can be read even if it was never closed.

#include "trace/trace_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using Json = nlohmann::json;

class TraceFileTest : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  static EngineConfig config() {
    return {.model = NANO_VLLM_SOURCE_DIR "/tests/data/tiny/llama-gqa",
            .max_num_batched_tokens = 16,
            .kv_cache_memory_bytes = 1 << 20,
            .threads = 1};
  }
  std::string text() const {
    std::stringstream s;
    s << std::ifstream(path_).rdbuf();
    return s.str();
  }
  // Every slice of a group of tracks, by track, in the order of the file.
  static std::map<int, std::vector<Json>> slices(const Json& events, int process) {
    std::map<int, std::vector<Json>> tracks;
    for (const Json& e : events)
      if (e["ph"] == "X" && e["pid"] == process) tracks[e["tid"]].push_back(e);
    return tracks;
  }
  static std::vector<std::string> names(const std::vector<Json>& events) {
    std::vector<std::string> names;
    for (const Json& e : events) names.push_back(e["name"]);
    return names;
  }

  const std::string path_ =
      (std::filesystem::temp_directory_path() / ("trace." + std::to_string(::getpid()))).string();
};

TEST_F(TraceFileTest, ShowsStepsAndRequests) {
  LLM llm(config());
  TraceFile file(path_);
  file.watch(llm);
  const SamplingParams params{.max_tokens = 3, .ignore_eos = true};
  llm.add_request({.token_ids = std::vector<int32_t>(20, 1)}, params, nullptr);
  llm.add_request({.token_ids = {7, 8, 9}}, params, nullptr);
  while (llm.has_unfinished_requests()) llm.step();
  file.close();

  const Json events = Json::parse(text());
  const auto steps = slices(events, 1).at(1);
  const int64_t num_steps = llm.stats().steps;
  ASSERT_EQ(std::ssize(steps), num_steps * 6);  // and five phases each
  for (int64_t i = 0; i < num_steps; ++i) {
    const Json& step = steps[i * 6];
    EXPECT_EQ(step["name"], "step " + std::to_string(i + 1));
    double phases = 0;
    for (int64_t j = i * 6 + 1; j < i * 6 + 6; ++j) {
      EXPECT_GE(steps[j]["ts"].get<double>(), step["ts"].get<double>() - 0.01);
      phases += steps[j]["dur"].get<double>();
    }
    EXPECT_NEAR(phases, step["dur"].get<double>(), 0.01);
    if (i > 0) {
      EXPECT_GE(step["ts"].get<double>(), steps[i * 6 - 6]["ts"].get<double>());
    }
  }
  const auto requests = slices(events, 2);
  ASSERT_EQ(requests.size(), 2);
  EXPECT_EQ(names(requests.at(1)), (std::vector<std::string>{"waiting", "prefill 0-15",
                                                             "prefill 16-19", "decode", "decode"}));
  EXPECT_EQ(names(requests.at(2)),
            (std::vector<std::string>{"waiting", "prefill 0-2", "decode", "decode"}));
  for (const auto& [track, list] : requests)
    for (size_t i = 1; i < list.size(); ++i)  // nothing overlaps
      EXPECT_GE(list[i]["ts"].get<double>() + 0.01,
                list[i - 1]["ts"].get<double>() + list[i - 1]["dur"].get<double>());
  int64_t ends = 0, counters = 0;
  for (const Json& e : events) {
    ends += e["ph"] == "i" && e["name"] == "length";
    counters += e["ph"] == "C";
  }
  EXPECT_EQ(ends, 2);
  EXPECT_EQ(counters, 4 * num_steps);
}

TEST_F(TraceFileTest, ShowsPreemptionsAndAborts) {
  EngineConfig c = config();
  c.max_model_len = 64;
  c.max_num_seqs = 4;
  c.kv_cache_memory_bytes = 10 * 16 * LLM(c).memory_plan().kv_bytes_per_token;
  LLM llm(c);
  TraceFile file(path_);
  file.watch(llm);
  uint64_t last = 0;
  for (int i = 0; i < 4; ++i)
    last = llm.add_request({.token_ids = std::vector<int32_t>(12, i)},
                           {.max_tokens = 50, .ignore_eos = true}, nullptr);
  while (llm.stats().preemptions == 0) llm.step();
  llm.cancel(last);  // between two steps
  while (llm.has_unfinished_requests()) llm.step();
  file.close();
  int64_t preempted = 0, aborts = 0, lengths = 0;
  for (const Json& e : Json::parse(text())) {
    preempted += e["name"] == "preempted";
    aborts += e["name"] == "abort";
    lengths += e["name"] == "length";
  }
  EXPECT_GT(preempted, 0);
  EXPECT_LE(preempted, llm.stats().preemptions);
  EXPECT_EQ(aborts, 1);
  EXPECT_EQ(lengths, 3);
}

TEST_F(TraceFileTest, EveryStepIsThereAtOnce) {
  LLM llm(config());
  TraceFile file(path_);
  file.watch(llm);
  llm.add_request({.token_ids = {1}}, {.max_tokens = 8, .ignore_eos = true}, nullptr);
  for (int i = 1; i <= 3; ++i) {
    llm.step();
    std::string open = text();  // as a killed program leaves it
    ASSERT_TRUE(open.ends_with(",\n"));
    open.replace(open.size() - 2, 2, "]");
    EXPECT_EQ(std::ssize(slices(Json::parse(open), 1).at(1)), 6 * i);
  }
}

TEST_F(TraceFileTest, SaysWhatCannotBeWritten) {
  EXPECT_THROW(TraceFile("/nonexistent/trace.json"), Error);
  TraceFile none("");
  none.close();
  TraceFile full("/dev/full");
  EXPECT_THROW(full.close(), Error);
}

}  // namespace
}  // namespace nanovllm
