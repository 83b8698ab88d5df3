#include "formats/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string file_of(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(reinterpret_cast<const char*>(&size), 8);
  file += header;
  for (size_t i = 0; i < data_bytes; ++i) file += static_cast<char>(i);
  return file;
}

std::vector<TensorView> parse(const std::string& file,
                              std::vector<std::string>* skipped = nullptr) {
  return parse_safetensors({reinterpret_cast<const std::byte*>(file.data()), file.size()},
                           "m.safetensors", skipped);
}

std::string safetensors_error(const std::string& file) {
  try {
    parse(file);
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

std::string safetensors_error(const std::string& header, size_t data_bytes) {
  return safetensors_error(file_of(header, data_bytes));
}

constexpr char kSample[] =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},)"
    R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"s":{"dtype":"F16","shape":[],"data_offsets":[20,22]},)"
    R"("e":{"dtype":"F32","shape":[0,5],"data_offsets":[22,22]}}   )";

TEST(Safetensors, ReadsNamesShapesAndData) {
  const std::string file = file_of(kSample, 22);
  const std::vector<TensorView> views = parse(file);
  ASSERT_EQ(views.size(), 4u);  // in the order of the data
  EXPECT_EQ(views[0].name, "a");
  EXPECT_EQ(views[1].name, "b");
  EXPECT_EQ(views[1].dtype, DType::kBF16);
  EXPECT_THAT(views[1].shape, ElementsAre(2, 3));
  EXPECT_EQ(views[1].data.size(), 12u);
  EXPECT_EQ(views[1].data[0], std::byte{8});
  EXPECT_TRUE(views[2].shape.empty());
  EXPECT_EQ(views[2].num_elements(), 1);
  EXPECT_EQ(views[3].num_elements(), 0);
}

TEST(Safetensors, OtherTypesOfTheFormatAreSkippedAndListed) {
  std::vector<std::string> skipped;
  const std::string file = file_of(R"({"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                                   R"("a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                                   12);
  const std::vector<TensorView> views = parse(file, &skipped);
  ASSERT_EQ(views.size(), 1u);
  EXPECT_EQ(views[0].name, "a");
  EXPECT_THAT(skipped, ElementsAre("i (I64)"));
}

TEST(Safetensors, TruncatedAtEveryByteIsAnErrorThatNamesTheFile) {
  const std::string whole = file_of(kSample, 22);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_THAT(safetensors_error(whole.substr(0, size)), HasSubstr("m.safetensors"))
        << "cut at " << size;
  }
  EXPECT_EQ(safetensors_error(whole), "");
}

TEST(Safetensors, RandomDamageIsSurvived) {
  const std::string whole = file_of(kSample, 22);
  const std::string alphabet = "0123456789[]{}\":,eab\\F-. \xff";
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = whole;
    for (unsigned n = 1 + random() % 3; n > 0; --n)
      damaged[random() % whole.size()] = alphabet[random() % alphabet.size()];
    if (round % 4 == 0) damaged.resize(random() % damaged.size());
    try {
      for (const TensorView& view : parse(damaged)) {
        const std::byte* end = reinterpret_cast<const std::byte*>(damaged.data()) + damaged.size();
        ASSERT_EQ(static_cast<int64_t>(view.data.size()),
                  view.num_elements() * dtype_block_bytes(view.dtype));
        ASSERT_LE(view.data.data() + view.data.size(), end);
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 10000);
}

TEST(Safetensors, BadHeadersAreRefused) {
  EXPECT_THAT(safetensors_error("short"), HasSubstr("too short"));
  EXPECT_THAT(safetensors_error(std::string(8, '\xff') + "{}"),
              HasSubstr("18446744073709551615 bytes passes the end"));
  EXPECT_THAT(safetensors_error("[]", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(safetensors_error(" {}", 0), HasSubstr("does not begin with '{'"));
  EXPECT_THAT(safetensors_error("{\"a\":", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(safetensors_error("{\"\xff\":{}}", 0), HasSubstr("not valid JSON"));
  EXPECT_THAT(safetensors_error("{\"a\":" + std::string(100000, '['), 0),
              HasSubstr("nested deeper than 3"));
  EXPECT_THAT(safetensors_error("{}", 3), HasSubstr("3 bytes after the last tensor"));
}

TEST(Safetensors, BadEntriesAreNamed) {
  const auto message = [](const std::string& entry, size_t data = 8) {
    return safetensors_error("{\"t\":" + entry + "}", data);
  };
  EXPECT_EQ(message(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})"), "");
  EXPECT_THAT(message("7"), HasSubstr("tensor 't': its entry is not a JSON object"));
  EXPECT_THAT(message(R"({"shape":[2],"data_offsets":[0,8]})"), HasSubstr("\"dtype\""));
  EXPECT_THAT(message(R"({"dtype":"F99","shape":[2],"data_offsets":[0,8]})"),
              HasSubstr("tensor 't': unknown dtype 'F99'"));
  EXPECT_THAT(message(R"({"dtype":"F32","data_offsets":[0,8]})"), HasSubstr("\"shape\""));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"),
              HasSubstr("non-negative"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"),
              HasSubstr("non-negative"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[2]})"), HasSubstr("\"data_offsets\""));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})"),
              HasSubstr("two numbers"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"),
              HasSubstr("end before they begin"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})"),
              HasSubstr("pass the end of the file"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"),
              HasSubstr("needs 12 bytes of F32"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})"),
              HasSubstr("absurd"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[0,9223372036854775807,9],"data_offsets":[0,0]})"),
              HasSubstr("absurd"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999]})"),
              HasSubstr("non-negative"));
  EXPECT_THAT(message(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), HasSubstr("hole"));
}

TEST(Safetensors, OverlapsAndDuplicatesAreRefused) {
  EXPECT_THAT(safetensors_error(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                                12),
              HasSubstr("tensor 'b': data that begin at byte 4 overlap another tensor's"));
  EXPECT_THAT(safetensors_error(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                R"("a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                8),
              HasSubstr("key 'a' appears twice"));
}

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() /
            ("nano_vllm_safetensors_" + std::to_string(getpid()));
    std::filesystem::create_directories(path_);
  }
  void TearDown() override { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const std::string& content) {
    std::ofstream(path_ / name) << content;
  }
  std::string error() {
    try {
      SafetensorsCheckpoint checkpoint(path_);
      return "";
    } catch (const Error& e) {
      return e.what();
    }
  }
  static std::string tensor(const std::string& name) {
    return file_of("{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
                   4);
  }
  std::filesystem::path path_;
};

TEST_F(Folder, ShardsAreReadTogetherAndDescribed) {
  write("one.safetensors", tensor("a"));
  write("two.safetensors", tensor("b"));
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  SafetensorsCheckpoint checkpoint(path_);
  EXPECT_EQ(checkpoint.tensors().size(), 2u);
  EXPECT_EQ(checkpoint.describe("b"), (path_ / "two.safetensors").string() + ": tensor 'b'");
  EXPECT_EQ(checkpoint.describe("c"), "tensor 'c'");
  checkpoint.release(checkpoint.tensors().at("a"));
  EXPECT_EQ(checkpoint.tensors().at("a").data[1],
            std::byte{1});  // released pages come back from the file
}

TEST_F(Folder, IndexAndShardsMustAgree) {
  EXPECT_THAT(error(), HasSubstr("neither model.safetensors nor model.safetensors.index.json"));
  write("one.safetensors", tensor("a"));
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("one.safetensors: tensor 'b': is missing"));
  write("model.safetensors.index.json",
        R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("two.safetensors: no such file"));
  write("two.safetensors", tensor("c"));
  EXPECT_THAT(error(), HasSubstr("two.safetensors: tensor 'c': is not listed"));
  write("two.safetensors", tensor("a"));
  EXPECT_THAT(error(), HasSubstr("two.safetensors: tensor 'a': is in this shard, but"));
  write("model.safetensors.index.json", R"({"weight_map":{"a":"../one.safetensors"}})");
  EXPECT_THAT(error(), HasSubstr("not a plain file name"));
  write("model.safetensors.index.json", R"({"weight_map":[]})");
  EXPECT_THAT(error(), HasSubstr("weight_map"));
  write("model.safetensors.index.json", "");
  EXPECT_THAT(error(), HasSubstr("is empty (0 bytes)"));
  write("model.safetensors", "");
  EXPECT_THAT(error(), HasSubstr("model.safetensors: is empty (0 bytes)"));
}

}  // namespace
}  // namespace nanovllm
