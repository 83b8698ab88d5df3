#include "formats/mapped_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "formats/json.h"
#include "formats/text.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using ::testing::HasSubstr;

class MappedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        std::filesystem::temp_directory_path() / ("nano_vllm_mapped_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) { return folder_ / name; }
  static std::string error_of(const std::string& path) {
    try {
      MappedFile file(path);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
  std::filesystem::path folder_;
};

TEST_F(MappedFileTest, MapsReleasesAndMoves) {
  const std::string content(10000, 'x');
  std::ofstream(path("f")) << content << "end";
  MappedFile file(path("f"));
  ASSERT_EQ(file.bytes().size(), 10003u);
  file.release(file.bytes().subspan(5000, 100));  // in the middle of a page
  EXPECT_EQ(file.bytes()[5050], std::byte{'x'});
  MappedFile other = std::move(file);
  EXPECT_EQ(other.bytes()[10002], std::byte{'d'});
  std::ofstream(path("g")) << "g";
  other = MappedFile(path("g"));
  EXPECT_EQ(other.bytes().size(), 1u);
  EXPECT_EQ(other.path(), path("g"));
}

TEST_F(MappedFileTest, SaysWhyAFileCannotBeRead) {
  std::ofstream(path("empty"));
  mkfifo(path("pipe").c_str(), 0600);
  EXPECT_EQ(error_of(path("none")), path("none") + ": no such file");
  EXPECT_EQ(error_of(path("empty")), path("empty") + ": is empty (0 bytes)");
  EXPECT_EQ(error_of(folder_), folder_.string() + ": is a folder, not a file");
  EXPECT_EQ(error_of(path("pipe")), path("pipe") + ": is not a regular file");
  EXPECT_THAT(error_of(std::string("a\0b", 3)), HasSubstr("NUL"));
  if (geteuid() != 0) {  // root may read everything
    std::ofstream(path("secret")) << "x";
    chmod(path("secret").c_str(), 0);
    EXPECT_EQ(error_of(path("secret")), path("secret") + ": permission denied");
  }
}

std::string json_error(const std::string& text, int depth = 64) {
  try {
    parse_json(text, "f.json", depth);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

TEST(Json, DepthDuplicatesAndSyntax) {
  EXPECT_EQ(parse_json("{\"a\": [1, {\"a\": 2}]}", "f.json")["a"][1]["a"], 2);
  EXPECT_EQ(json_error("[[[]]]", 3), "");
  EXPECT_EQ(json_error("[[[]]]", 2), "f.json: JSON is nested deeper than 2 levels");
  EXPECT_THAT(json_error(std::string(1 << 20, '[')), HasSubstr("nested deeper"));
  EXPECT_EQ(json_error("{\"a\": 1, \"b\": {\"a\": 1}, \"a\": 2}"),
            "f.json: JSON key 'a' appears twice");
  EXPECT_THAT(json_error("{\"a\": 1"),
              HasSubstr("f.json: is not valid JSON: parse error at line 1"));
  EXPECT_THAT(json_error("[1] 2"), HasSubstr("not valid JSON"));
  EXPECT_THAT(json_error("[\"\xff\"]"), HasSubstr("not valid JSON"));
}

TEST(Quote, IsPrintableUtf8WhateverComesIn) {
  EXPECT_EQ(quote("layer.0"), "'layer.0'");
  EXPECT_EQ(quote("a\x1b[31m\n"), "'a\\x1b[31m\\x0a'");
  EXPECT_EQ(quote("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
            "'\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80'");
  EXPECT_EQ(quote("\xff\xc3"), "'\\xff\\xc3'");
  EXPECT_EQ(quote("\xc0\xaf"), "'\\xc0\\xaf'");           // an overlong slash
  EXPECT_EQ(quote("\xed\xa0\x80"), "'\\xed\\xa0\\x80'");  // half a surrogate pair
  EXPECT_EQ(quote("\xc2\x9b"), "'\\xc2\\x9b'");           // a C1 control character
  EXPECT_EQ(quote(std::string(500, 'x')).size(), 120 + 5);
}

}  // namespace
}  // namespace nanovllm
