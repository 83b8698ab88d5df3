// A line of the access log is one line of ASCII, and says what happened.
#include "server/access_log.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <thread>

#include "nanovllm/error.h"
#include "server/openai_json.h"

namespace nanovllm {
namespace {

using openai::Json;

TEST(AccessLog, SaysWhoAskedWhatAndWhatItCost) {
  const CallRecord call = {.arrived = 10,
                           .entered = 10.25,
                           .first_token = 11,
                           .last_token = 12,
                           .prompt_tokens = 7,
                           .cached_tokens = 2,
                           .output_tokens = 5,
                           .finish_reasons = {FinishReason::kStop, FinishReason::kLength}};
  const std::string line = AccessLog::line({.key = "alice",
                                            .remote = "127.0.0.1",
                                            .method = "POST",
                                            .path = "/v1/completions",
                                            .status = 200,
                                            .bytes = 99,
                                            .complete = false,
                                            .seconds = 2.0000004,
                                            .call = &call},
                                           1769860800.123);
  EXPECT_EQ(
      line,
      R"({"time":"2026-01-31T12:00:00.123Z","remote":"127.0.0.1","key":"alice","method":"POST",)"
      R"("path":"/v1/completions","status":200,"bytes":99,"complete":false,"seconds":2.0,)"
      R"("queue_seconds":0.25,"prompt_tokens":7,"cached_tokens":2,"output_tokens":5,)"
      R"("ttft_seconds":1.0,"finish_reasons":["stop","length"]})"
      "\n");
}

TEST(AccessLog, LeavesOutWhatThereIsNot) {
  const Json nothing = Json::parse(AccessLog::line({.status = 401}, 0));
  EXPECT_EQ(nothing["key"], nullptr);
  EXPECT_FALSE(nothing.contains("queue_seconds"));
  const CallRecord waiting = {.arrived = 1};  // it never reached the engine
  EXPECT_FALSE(Json::parse(AccessLog::line({.call = &waiting}, 0)).contains("prompt_tokens"));
  const CallRecord left = {.arrived = 1, .entered = 2};
  const Json early = Json::parse(AccessLog::line({.call = &left}, 0));
  EXPECT_TRUE(early.contains("queue_seconds"));
  EXPECT_FALSE(early.contains("ttft_seconds"));
}

TEST(AccessLog, WhatAClientChoseCannotBreakALine) {
  const std::string hostile =
      "/a\n{\"status\":200}\r\x1b[2J\"\\\xff\xe2\x80\xa8" + std::string(9000, 'x');
  const std::string line = AccessLog::line({.method = std::string(500, 'M'), .path = hostile}, 0);
  EXPECT_EQ(std::ranges::count(line, '\n'), 1);
  EXPECT_EQ(line.back(), '\n');
  EXPECT_TRUE(std::ranges::all_of(line.substr(0, line.size() - 1),
                                  [](char c) { return c >= ' ' && c <= '~'; }));
  const Json parsed = Json::parse(line);
  EXPECT_TRUE(parsed["path"].get<std::string>().starts_with("/a\n{\"status\":200}\r\x1b[2J\"\\"));
  EXPECT_LT(line.size(), 1000u);
}

class AccessLogFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "nano-vllm-log-XXXXXX").string();
    folder_ = mkdtemp(name.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::filesystem::path folder_;
};

TEST_F(AccessLogFile, IsAppendedToByWholeLines) {
  const std::string path = folder_ / "log";
  std::ofstream(path) << "before\n";
  {
    AccessLog log(path), same(path);  // as two processes would
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t)
      threads.emplace_back([&, t] {
        for (int i = 0; i < 100; ++i) (t % 2 ? log : same).write({.path = "/x", .status = 200});
      });
    for (std::thread& thread : threads) thread.join();
  }
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  EXPECT_EQ(line, "before");
  int lines = 0;
  for (; std::getline(file, line); ++lines) EXPECT_EQ(Json::parse(line)["path"], "/x");
  EXPECT_EQ(lines, 800);
}

TEST_F(AccessLogFile, IsNotForOthersToRead) {
  const std::string path = folder_ / "log";
  const AccessLog log(path);
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07, 0u);
}

TEST_F(AccessLogFile, ThatCannotBeOpenedIsNamed) {
  try {
    AccessLog log(folder_ / "none" / "log");
    FAIL() << "it was opened";
  } catch (const InvalidArgument& e) {
    EXPECT_EQ(e.where(), "--access-log");
    EXPECT_NE(e.reason().find("none/log"), std::string::npos);
  }
}

}  // namespace
}  // namespace nanovllm
