#include "formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "formats/gguf_builder.h"
#include "formats/quantization.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::span<const std::byte> as_bytes(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}

// The message of the Error that parsing throws; "" if it succeeds.
std::string gguf_error(const std::string& file) {
  try {
    GgufFile gguf(as_bytes(file), "m.gguf");
    return "";
  } catch (const Error& e) {
    return e.what();
  }
}

// One tensor entry, its alignment and `data` zero bytes after it.
std::string one_tensor(const Bytes& entry, size_t data, const Bytes& keys = {},
                       uint64_t num_keys = 0) {
  Bytes b = gguf_header(1, num_keys);
  b.raw(keys.str()).raw(entry.str()).align(32);
  return b.str() + std::string(data, '\0');
}

TEST(Gguf, ReadsEveryTypeOfKey) {
  const std::string bytes = sample_gguf();
  const GgufFile file(as_bytes(bytes), "m.gguf");
  EXPECT_EQ(file.metadata().size(), 16u);
  EXPECT_EQ(file.get_string("general.architecture"), "llama");
  EXPECT_EQ(file.get_int("k.u8"), 200);
  EXPECT_EQ(file.get_int("k.i8"), -100);
  EXPECT_EQ(file.get_int("k.u16"), 60000);
  EXPECT_EQ(file.get_int("k.i16"), -30000);
  EXPECT_EQ(file.get_int("k.u32"), 4000000000);
  EXPECT_EQ(file.get_int("k.i32"), -2000000000);
  EXPECT_EQ(file.get_double("k.f32"), 0.5);
  EXPECT_EQ(file.get_bool("k.bool"), true);
  EXPECT_EQ(file.get_int("k.u64"), int64_t{1} << 62);
  EXPECT_EQ(file.get_int("k.i64"), -(int64_t{1} << 62));
  EXPECT_EQ(file.get_double("k.f64"), 0.1);
  EXPECT_THAT(*file.get_strings("k.strings"), ElementsAre("a", "", "bc"));
  EXPECT_THAT(*file.get_ints("k.ints"), ElementsAre(1, -2, 3));
  EXPECT_THAT(*file.get_doubles("k.floats"), ElementsAre(1.5, -2));
  EXPECT_THAT(*file.get_ints("k.bools"), ElementsAre(0, 1));
}

TEST(Gguf, AbsentKeysAreNullAndOtherTypesAnError) {
  const std::string bytes = sample_gguf();
  const GgufFile file(as_bytes(bytes), "m.gguf");
  EXPECT_EQ(file.get_int("none"), std::nullopt);
  EXPECT_EQ(file.get_strings("none"), nullptr);
  EXPECT_EQ(file.get_double("k.u8"), 200.0);  // integers are numbers
  try {
    file.get_string("k.u8");
    FAIL() << "an integer passed for a string";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "m.gguf: key 'k.u8': is not a string");
  }
  EXPECT_THROW(file.get_int("k.f32"), Error);
  EXPECT_THROW(file.get_bool("k.u8"), Error);
  EXPECT_THROW(file.get_ints("k.strings"), Error);
}

TEST(Gguf, ReadsTensorsWithTheSlowestDimensionFirst) {
  const std::string bytes = sample_gguf();
  const GgufFile file(as_bytes(bytes), "m.gguf");
  ASSERT_EQ(file.tensors().size(), 3u);
  const TensorView& f32 = file.tensors().at("f32");
  EXPECT_THAT(f32.shape, ElementsAre(2, 3));
  EXPECT_EQ(f32.dtype, DType::kF32);
  float values[6];
  dequantize_row(f32.dtype, f32.data.data(), values, 6);
  EXPECT_THAT(values, ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(file.tensors().at("bf16").shape, ElementsAre(2, 1, 5));
  EXPECT_EQ(file.tensors().at("bf16").data.size(), 20u);
  const TensorView& q4_1 = file.tensors().at("q4_1");
  EXPECT_EQ(q4_1.data.size(), 40u);
  EXPECT_EQ(q4_1.data[39], std::byte{39});
}

TEST(Gguf, Version2IsReadAndVocabularyOnlyFilesNeedNoPadding) {
  EXPECT_EQ(gguf_error(gguf_header(0, 1, 2).text("a").u32(0).number<uint8_t>(1).str()), "");
}

TEST(Gguf, TruncatedAtEveryByteIsAnErrorThatNamesTheFile) {
  const std::string whole = sample_gguf();
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string cut = whole.substr(0, size);
    EXPECT_THAT(gguf_error(cut), HasSubstr("m.gguf")) << "cut at " << size;
  }
  EXPECT_EQ(gguf_error(whole), "");
}

// Any damage ends in an Error or in a file whose tensors lie inside it. Sanitizers see to the rest.
TEST(Gguf, RandomDamageIsSurvived) {
  const std::string whole = sample_gguf();
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = whole;
    for (unsigned n = 1 + random() % 3; n > 0; --n)
      damaged[random() % damaged.size()] = static_cast<char>(random());
    if (round % 4 == 0) damaged.resize(random() % damaged.size());
    try {
      const GgufFile file(as_bytes(damaged), "m.gguf");
      for (const auto& [name, view] : file.tensors()) {
        const int64_t row = view.shape.back();
        ASSERT_EQ(static_cast<int64_t>(view.data.size()),
                  view.num_elements() / row * dtype_row_bytes(view.dtype, row));
        ASSERT_LE(view.data.data() + view.data.size(), as_bytes(damaged).data() + damaged.size());
      }
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 5000);
}

TEST(Gguf, RefusesWhatIsNotGgufByName) {
  EXPECT_THAT(gguf_error("PK\3\4 and more"), HasSubstr("not a GGUF file"));
  EXPECT_THAT(gguf_error(gguf_header(0, 0, 1).str()), HasSubstr("version 1"));
  EXPECT_THAT(gguf_error(gguf_header(0, 0, 4).str()), HasSubstr("version 4"));
  EXPECT_THAT(gguf_error(gguf_header(0, 0, 0x03000000).str()), HasSubstr("big-endian"));
}

TEST(Gguf, AbsurdCountsAreRefusedBeforeAnythingIsAllocated) {
  EXPECT_THAT(gguf_error(gguf_header(~0ull, 0).str()), HasSubstr("18446744073709551615 tensors"));
  EXPECT_THAT(gguf_error(gguf_header(0, ~0ull).str()), HasSubstr("18446744073709551615 keys"));
  EXPECT_THAT(gguf_error(gguf_header(0, 1).u64(~0ull).raw("aaaaaaaaaaaa").str()),
              HasSubstr("length of a key"));
  EXPECT_THAT(gguf_error(gguf_header(0, 1).text("k").u32(8).u64(1ull << 63).str()),
              HasSubstr("key 'k'"));
  for (uint32_t type : {0u, 8u, 12u}) {
    EXPECT_THAT(gguf_error(gguf_header(0, 1).text("k").u32(9).u32(type).u64(1ull << 61).str()),
                HasSubstr("m.gguf: key 'k': an array of 2305843009213693952 values"));
  }
}

TEST(Gguf, BadKeysAreNamed) {
  auto with = [](const Bytes& keys, uint64_t count) {
    return gguf_error(gguf_header(0, count).raw(keys.str()).str());
  };
  EXPECT_THAT(with(Bytes().text("k").u32(13).u64(0), 1),
              HasSubstr("key 'k': unknown value type 13"));
  EXPECT_THAT(with(Bytes().text("k").u32(9).u32(9).u64(1).u64(0), 1),
              HasSubstr("arrays of arrays"));
  EXPECT_THAT(with(Bytes().text("k").u32(7).number<uint8_t>(2), 1), HasSubstr("neither 0 nor 1"));
  EXPECT_THAT(with(Bytes().text("k").u32(10).u64(1ull << 63), 1), HasSubstr("above 2^63 - 1"));
  EXPECT_THAT(with(Bytes().text("").u32(0).u64(0), 1), HasSubstr("a key has 0 bytes"));
  EXPECT_THAT(with(Bytes().text("k").u32(4).u32(1).text("k").u32(4).u32(1), 2),
              HasSubstr("key 'k': appears twice"));
  EXPECT_THAT(with(Bytes().text("a\x1b[31m\xff").u32(99).u64(0), 1),
              HasSubstr("key 'a\\x1b[31m\\xff'"));
  EXPECT_THAT(with(Bytes().text("split.count").u32(2).number<uint16_t>(2), 1),
              HasSubstr("split into 2 files"));
  EXPECT_EQ(with(Bytes().text("split.count").u32(2).number<uint16_t>(1), 1), "");
  for (uint32_t alignment : {0u, 3u, 48u, 0x80000000u}) {
    EXPECT_THAT(with(Bytes().text("general.alignment").u32(4).u32(alignment), 1),
                HasSubstr("power of two"));
  }
}

TEST(Gguf, BadTensorsAreNamed) {
  const auto message = [](const Bytes& entry, size_t data = 64) {
    return gguf_error(one_tensor(entry, data));
  };
  EXPECT_EQ(message(Bytes().text("t").u32(1).u64(16).u32(0).u64(0)), "");
  EXPECT_THAT(message(Bytes().text("t").u32(0).u32(0).u64(0).u64(0)),
              HasSubstr("tensor 't': has 0 dimensions"));
  EXPECT_THAT(message(Bytes().text("t").u32(5).u64(1).u64(1)),
              HasSubstr("tensor 't': has 5 dimensions"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(0).u32(0).u64(0)),
              HasSubstr("dimension 0 is 0"));
  EXPECT_THAT(message(Bytes().text("t").u32(2).u64(1ull << 40).u64(1ull << 40).u32(0).u64(0)),
              HasSubstr("absurd"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(~0ull).u32(0).u64(0)), HasSubstr("absurd"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(16).u32(10).u64(0)),
              HasSubstr("tensor 't': type 10 (Q2_K)"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(16).u32(77).u64(0)),
              HasSubstr("unknown tensor type 77"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(16).u32(8).u64(0)),
              HasSubstr("not a multiple of 32"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(32).u32(14).u64(0)),
              HasSubstr("not a multiple of 256"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(1).u32(0).u64(8)),
              HasSubstr("not a multiple of the alignment 32"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(17).u32(0).u64(0)), HasSubstr("needs 68 bytes"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(1).u32(0).u64(64)), HasSubstr("has only 64"));
  EXPECT_THAT(message(Bytes().text("t").u32(1).u64(1).u32(0).u64(0xffffffffffffffe0)),
              HasSubstr("tensor 't'"));
}

TEST(Gguf, OverlapsAndDuplicatesAreRefused) {
  auto two = [](const char* second, uint64_t offset) {
    Bytes b = gguf_header(2, 0);
    b.text("first")
        .u32(1)
        .u64(10)
        .u32(0)
        .u64(0)
        .text(second)
        .u32(1)
        .u64(2)
        .u32(0)
        .u64(offset)
        .align(32);
    return gguf_error(b.str() + std::string(128, '\0'));
  };
  EXPECT_EQ(two("second", 64), "");
  EXPECT_THAT(two("second", 32),
              HasSubstr("tensor 'second': begins at byte 32 of the data, inside tensor 'first'"));
  EXPECT_THAT(two("second", 0), HasSubstr("inside tensor"));
  EXPECT_THAT(two("first", 64), HasSubstr("tensor 'first': appears twice"));
}

}  // namespace
}  // namespace nanovllm
