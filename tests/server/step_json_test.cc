// step_json: what the web page is told of a step can be parsed and says what the trace says.

#include "server/step_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace nanovllm {
namespace {

// As web/frames.js reads them.
std::vector<int> expand(const nlohmann::json& runs) {
  std::vector<int> ids;
  for (size_t i = 0; i < runs.size(); i += 2) {
    const int first = runs[i], last = runs[i + 1], step = first <= last ? 1 : -1;
    for (int id = first; id != last + step; id += step) ids.push_back(id);
  }
  return ids;
}

TEST(StepJson, WritesBlocksAsRuns) {
  const std::vector<std::vector<int32_t>> tables = {
      {}, {5}, {5, 6}, {6, 5}, {1, 2, 3, 9, 8, 7, 7}, {4, 4}, {3, 5, 7}, {9, 8, 9, 10, 2}};
  for (const auto& table : tables) {
    StepTrace trace;
    trace.sequences.push_back({.request_id = 1, .block_table = table});
    const nlohmann::json runs = nlohmann::json::parse(step_json(trace))["sequences"][0]["blocks"];
    EXPECT_EQ(expand(runs), std::vector<int>(table.begin(), table.end())) << runs;
  }
  StepTrace trace;
  for (int i = 0; i < 1000; ++i) trace.blocks.push_back({.is_cached = i >= 10 && i != 500});
  EXPECT_EQ(nlohmann::json::parse(step_json(trace))["cached"], nlohmann::json({10, 499, 501, 999}));
}

TEST(StepJson, SaysWhatTheTraceSays) {
  StepTrace t;
  t.step = 7, t.start = 1.5, t.duration = 0.25, t.phases.model = 0.2;
  t.batch = {{.request_id = 3,
              .is_decode = true,
              .first_position = 40,
              .num_tokens = 1,
              .num_draft_tokens = 4,
              .num_accepted_tokens = 2},
             {.request_id = 4, .index = 1, .num_tokens = 16, .num_cached_tokens = 32}};
  using Status = StepTraceSequence::Status;
  t.sequences = {{.request_id = 3,
                  .status = Status::kFinished,
                  .finish_reason = FinishReason::kStop,
                  .num_prompt_tokens = 39,
                  .num_output_tokens = 4,
                  .num_computed_tokens = 43}};
  for (int i = 0; i < 80; ++i)
    t.sequences.push_back({.request_id = 10u + i, .status = Status::kWaiting});
  t.stats.waiting = 80;
  const nlohmann::json json = nlohmann::json::parse(step_json(t));
  EXPECT_EQ(json["step"], 7);
  EXPECT_EQ(json["seconds"], 0.25);
  EXPECT_EQ(json["phases"]["model"], 0.2);
  EXPECT_EQ(json["batch"][0], nlohmann::json::parse(R"({"id":3,"index":0,"first":40,"tokens":1,
      "decode":true,"drafts":4,"accepted":2})"));
  EXPECT_EQ(json["batch"][1],
            nlohmann::json::parse(R"({"id":4,"index":1,"first":0,"tokens":16,"cached":32})"));
  EXPECT_EQ(json["sequences"].size(), 1 + kMaxWaitingShown);
  EXPECT_EQ(json["sequences"][0], nlohmann::json::parse(R"({"id":3,"index":0,"status":"finished",
      "reason":"stop","prompt":39,"output":4,"computed":43,"blocks":[]})"));
  EXPECT_EQ(json["stats"]["waiting"], 80);
}

TEST(QueueJson, SaysWhatWaits) {
  EXPECT_EQ(nlohmann::json::parse(queue_json({})),
            nlohmann::json::parse(R"({"count": 0, "first": []})"));
  const QueueSnapshot queue = {
      .count = 70,
      .first = {
          {.key = "alice", .prompt_tokens = 9, .completions = 2, .priority = -1, .seconds = 0.5},
          {.prompt_tokens = 1, .completions = 1}}};
  const nlohmann::json json = nlohmann::json::parse(queue_json(queue));
  EXPECT_EQ(json["count"], 70);
  EXPECT_EQ(json["first"][0],
            nlohmann::json::parse(R"({"key": "alice", "prompt": 9, "completions": 2,
                                              "priority": -1, "seconds": 0.5})"));
  EXPECT_EQ(json["first"][1]["key"], "");
}

}  // namespace
}  // namespace nanovllm
