#include "tokenizer/unicode.h"

#include <gtest/gtest.h>

namespace nanovllm {
namespace {

TEST(Unicode, BrokenBytesBecomeReplacementsAsInPython) {
  // Each right side is bytes.decode("utf-8", errors="replace").
  EXPECT_EQ(to_valid_utf8("a\xFF"), "a\uFFFD");
  EXPECT_EQ(to_valid_utf8("\xE4\xBD"), "\uFFFD");  // cut off: one
  EXPECT_EQ(to_valid_utf8("\xE4\xBDx"), "\uFFFDx");
  EXPECT_EQ(to_valid_utf8("\xC0\xAF"), "\uFFFD\uFFFD");                      // overlong
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");            // a surrogate
  EXPECT_EQ(to_valid_utf8("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");  // above U+10FFFF
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x98\xF0\x9F\x98\x80"), "\uFFFD\U0001F600");
  EXPECT_EQ(to_valid_utf8("\x80\xE2\x82\xAC"), "\uFFFD\u20AC");
}

TEST(Unicode, NormalForms) {
  EXPECT_EQ(normalize("e\u0301", NormalForm::kNfc), "\u00E9");
  EXPECT_EQ(normalize("x\u0301", NormalForm::kNfc), "x\u0301");
  EXPECT_EQ(normalize("\u00E9", NormalForm::kNfd), "e\u0301");
  EXPECT_EQ(normalize("a\u0301\u0323", NormalForm::kNfd),
            "a\u0323\u0301");  // marks by combining class
  EXPECT_EQ(normalize("\uFB01\u00BD", NormalForm::kNfkc), "fi1\u20442");
  EXPECT_EQ(normalize("\u1100\u1161\u11A8", NormalForm::kNfc), "\uAC01");
  EXPECT_EQ(normalize("\u4E00\u3099\u304B\u3099", NormalForm::kNfc), "\u4E00\u3099\u304C");
}

TEST(Unicode, ALongRunOfMarksIsNotQuadratic) {
  std::string marks = "a";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0323";
  EXPECT_EQ(normalize(marks, NormalForm::kNfd).size(), marks.size());
}

}  // namespace
}  // namespace nanovllm
