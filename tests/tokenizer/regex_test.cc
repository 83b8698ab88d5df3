#include "tokenizer/regex.h"

#include <gtest/gtest.h>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
  std::vector<TextSpan> spans;
  Regex(pattern, "test").split(text, spans);
  std::vector<std::string> out;
  size_t covered = 0;
  for (const auto& span : spans) {
    EXPECT_EQ(span.begin, covered);  // the spans tile the text
    covered = span.end;
    if (span.match) out.push_back(text.substr(span.begin, span.end - span.begin));
  }
  EXPECT_EQ(covered, text.size());
  return out;
}

using Strings = std::vector<std::string>;

TEST(Regex, SpeaksOnigurumasDialect) {
  EXPECT_EQ(matches("\\s+", "a\u180E\u3000b"), Strings{"\u3000"});  // U+180E is no white space
  EXPECT_EQ(matches("\\h+", "xaf09g"), Strings{"af09"});            // a hexadecimal digit
  EXPECT_EQ(matches("a{2}+", "aaaaa"), Strings{"aaaa"});            // repeated, not possessive
  EXPECT_EQ(matches("a++a|b", "aab"), Strings{"b"});                // possessive
  EXPECT_EQ(matches("x{,2}y", "xxxy"), Strings{"xxy"});
  EXPECT_EQ(matches("[a-z&&[^aeiou]]+", "abcde"), (Strings{"bcd"}));
  EXPECT_EQ(matches("[^a-z&&[^aeiou]]+", "abce1"), (Strings{"a", "e1"}));
  EXPECT_EQ(matches("[a[0-9]]+", "b1a2b"), Strings{"1a2"});
  EXPECT_EQ(matches("(?i:'s)", "'\u017F"), Strings{"'\u017F"});  // long s folds to s
  EXPECT_EQ(matches("\\s+$", "a  \nb"), Strings{"  "});          // $ ends a line
  EXPECT_EQ(matches("(?m:.)", "\n"), Strings{"\n"});
  EXPECT_EQ(matches("\\p{Han}", "\u4E00\u30FC"),
            Strings{"\u4E00"});  // the script, without its extensions
  EXPECT_EQ(matches("\\p{L}+", "\U00031350x"),
            Strings{"\U00031350x"});  // newer than PCRE2's tables
}

TEST(Regex, RefusesByName) {
  for (const char* pattern :
       {"(", "[", "a\\", "(?~a)", "\\p{Nonsense}", "[z-a]", "\\y", "(?<a", "\\p{"}) {
    EXPECT_THROW(Regex(pattern, "test"), Error) << pattern;
  }
}

TEST(Regex, ALongGroupedMatchNeedsMoreThanTheMachineStack) {
  const std::string text(3'000'000, 'a');
  EXPECT_EQ(matches("(?:a|b[cd])+", text), Strings{text});
}

TEST(Regex, RunawayBacktrackingIsAnError) {
  std::vector<TextSpan> spans;
  const Regex regex("(a*)*\\1b|(x+x+)+y", "pattern of the test");
  EXPECT_THROW(regex.split(std::string(64, 'a') + std::string(64, 'x'), spans), Error);
}

}  // namespace
}  // namespace nanovllm
