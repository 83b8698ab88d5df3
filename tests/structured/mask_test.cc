// The masks against a plain reading of "what may come next": a token may come if some text of the
// language goes on with it, and EOS if the text so far is one. Languages small enough to be listed.
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <regex>
#include <set>

#include "structured/grammar_compiler.h"
#include "structured/grammar_matcher.h"
#include "structured/mask_worker.h"
#include "structured/test_tokenizer.h"

namespace nanovllm {
namespace {

using Language = std::set<std::string>;

// Every text over the alphabet, up to a length, that the expression matches as a whole.
Language matches_of(const std::string& expression, const std::string& alphabet, size_t longest) {
  const std::regex regex(expression);
  Language language;
  std::function<void(const std::string&)> extend = [&](const std::string& text) {
    if (std::regex_match(text, regex)) language.insert(text);
    if (text.size() < longest)
      for (const char c : alphabet) extend(text + c);
  };
  extend("");
  return language;
}

class MaskTest : public testing::Test {
 protected:
  // Walks through the language at random and compares every mask on the way.
  void check(const StructuredOutputs& outputs, const Language& language,
             const TestTokenizer& tokenizer) {
    ASSERT_FALSE(language.empty());
    GrammarCompiler compiler(tokenizer, tokenizer.vocab_size() + 3, {tokenizer.eos()}, {});
    const auto grammar = compiler.compile(outputs);
    std::mt19937 random(7);
    for (int walk = 0; walk < 40; ++walk) {
      GrammarMatcher matcher(grammar, tokenizer.vocab_size() + 3, {});
      std::string text;
      while (!matcher.is_terminated()) {
        matcher.prepare();
        std::vector<int32_t> allowed;
        for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
          const std::string next = text + tokenizer.token_bytes(id);
          const auto it = language.lower_bound(next);
          const bool expected = id == tokenizer.eos()
                                    ? language.contains(text)
                                    : it != language.end() && it->starts_with(next);
          ASSERT_EQ(matcher.allows(id), expected)
              << "after '" << text << "': '" << tokenizer.token_bytes(id) << "'";
          if (expected) allowed.push_back(id);
        }
        for (int32_t id = tokenizer.vocab_size(); id < tokenizer.vocab_size() + 3; ++id)
          ASSERT_FALSE(matcher.allows(id)) << "an id that the tokenizer does not have";
        ASSERT_FALSE(allowed.empty()) << text;
        EXPECT_EQ(matcher.must_stop(), allowed == std::vector<int32_t>{tokenizer.eos()});
        const int32_t id = allowed[random() % allowed.size()];
        ASSERT_TRUE(matcher.accept(id));
        text += tokenizer.token_bytes(id);
      }
      EXPECT_TRUE(language.contains(text)) << text;
    }
  }
  const TestTokenizer tokenizer_ = TestTokenizer::bytes_and(
      {"ab",   "abc", "bc", "cd",    "dd",       "ddd",   "aab", "b\"",  "\"a",
       "true", "tr",  "ue", "12",    "00",       "{\"",   "\":", "\": ", ", \"",
       "es",   "yes", "no", "n\xC3", "\xC3\xA9", "\xA9t", "}\n"});
};

TEST_F(MaskTest, Regex) {
  for (const char* expression :
       {"(ab|a)c?d{1,3}", "a|ab|abc", "[a-c]{2}d", "(a|b){0,3}", "a(b(c(d)?)?)?", "ab?ab?"}) {
    SCOPED_TRACE(expression);
    StructuredOutputs outputs;
    outputs.regex = expression;
    check(outputs, matches_of(expression, "abcd", 7), tokenizer_);
  }
}

TEST_F(MaskTest, Choice) {
  const std::vector<std::string> choices = {"yes", "no",          "n\xC3\xA9t", "yes, and \"so\"",
                                            "a\\", "tab\tline\n", "no\"",       "{\"a\": [1]}"};
  StructuredOutputs outputs;
  outputs.choice = choices;
  check(outputs, Language(choices.begin(), choices.end()), tokenizer_);
}

TEST_F(MaskTest, Grammar) {
  StructuredOutputs outputs;
  outputs.grammar = R"(root ::= "" | pair | pair pair3
pair ::= "[" pair2 "]"
pair2 ::= "" | "[" pair3 "]" | "[][]"
pair3 ::= "" | "[]")";
  Language language;
  for (const char* pair3 : {"", "[]"}) {
    for (const std::string& pair :
         {std::string("[]"), std::string("[[]]"), std::string("[[[]]]"), std::string("[[][]]")}) {
      language.insert(pair);
      language.insert(pair + pair3);
    }
  }
  language.insert("");
  check(outputs, language, tokenizer_);
}

TEST_F(MaskTest, JsonSchema) {
  Language language;
  for (const char* flag : {"true", "false"})
    for (const char* word : {"\"ab\"", "\"no\"", "null", "12"})
      for (int n = 98; n <= 120; ++n)
        language.insert(std::string("{\"a\": ") + flag + ", \"w\": " + word +
                        ", \"n\": " + std::to_string(n) + "}");
  StructuredOutputs outputs;
  outputs.disable_any_whitespace = true;
  outputs.json = R"({"type": "object", "properties": {
      "a": {"type": "boolean"}, "w": {"enum": ["ab", "no", null, 12]},
      "n": {"type": "integer", "minimum": 98, "maximum": 120}},
      "required": ["a", "w", "n"], "additionalProperties": false})";
  check(outputs, language, tokenizer_);
}

TEST_F(MaskTest, AMatcherThatIsDoneTakesNothing) {
  GrammarCompiler compiler(tokenizer_, tokenizer_.vocab_size(), {tokenizer_.eos()}, {});
  StructuredOutputs outputs;
  outputs.choice = {"ab"};
  GrammarMatcher matcher(compiler.compile(outputs), tokenizer_.vocab_size(), {});
  EXPECT_FALSE(matcher.accept(2));  // "bc"
  EXPECT_TRUE(matcher.accept(0));   // "ab"; what was refused changed nothing
  EXPECT_FALSE(matcher.is_terminated());
  matcher.prepare();
  EXPECT_TRUE(matcher.must_stop());
  EXPECT_TRUE(matcher.accept(tokenizer_.eos()));
  EXPECT_TRUE(matcher.is_terminated());
  EXPECT_FALSE(matcher.accept(0));
}

TEST_F(MaskTest, WithoutEosTheTextEndsWhereItIsComplete) {
  GrammarCompiler compiler(tokenizer_, tokenizer_.vocab_size(), {}, {});
  StructuredOutputs outputs;
  outputs.choice = {"ab"};
  GrammarMatcher matcher(compiler.compile(outputs), tokenizer_.vocab_size(), {});
  EXPECT_TRUE(matcher.accept(0));
  EXPECT_TRUE(matcher.is_terminated());
}

// What ends a completion besides EOS counts: "d" is all that may come, and it is a stop token.
TEST_F(MaskTest, StopTokens) {
  GrammarCompiler compiler(tokenizer_, tokenizer_.vocab_size(), {tokenizer_.eos()}, {});
  StructuredOutputs outputs;
  outputs.regex = "abd+";
  const int32_t d = 25 + 'd';
  ASSERT_EQ(tokenizer_.token_bytes(d), "d");
  GrammarMatcher matcher(compiler.compile(outputs), tokenizer_.vocab_size(), {d, 4, 5});
  EXPECT_TRUE(matcher.accept(0));
  matcher.prepare();
  EXPECT_TRUE(matcher.must_stop());
  EXPECT_TRUE(matcher.allows(d));
}

// Before min_tokens are out nothing that ends the completion may come, unless nothing else may.
TEST_F(MaskTest, MinTokens) {
  GrammarCompiler compiler(tokenizer_, tokenizer_.vocab_size(), {tokenizer_.eos()}, {});
  StructuredOutputs outputs;
  outputs.regex = "(ab){0,3}";
  GrammarMatcher matcher(compiler.compile(outputs), tokenizer_.vocab_size(), {}, 2);
  for (int i = 0; i < 3; ++i) {
    matcher.prepare();
    EXPECT_EQ(matcher.allows(tokenizer_.eos()), i >= 2);
    EXPECT_TRUE(matcher.allows(0));
    EXPECT_FALSE(matcher.accept(2));  // what is refused does not count
    EXPECT_TRUE(matcher.accept(0));
  }
  GrammarMatcher strict(compiler.compile(outputs), tokenizer_.vocab_size(), {0}, 2);
  ASSERT_EQ(tokenizer_.token_bytes(0), "ab");
  strict.prepare();
  EXPECT_FALSE(strict.allows(0));
  EXPECT_TRUE(strict.allows(25 + 'a'));
  EXPECT_TRUE(strict.accept(25 + 'a') && strict.accept(25 + 'b') && strict.accept(0) &&
              strict.accept(0));
  strict.prepare();
  EXPECT_TRUE(strict.must_stop());
  EXPECT_TRUE(strict.allows(tokenizer_.eos()));
}

TEST_F(MaskTest, TheWorkerPreparesAll) {
  GrammarCompiler compiler(tokenizer_, tokenizer_.vocab_size(), {tokenizer_.eos()}, {});
  StructuredOutputs outputs;
  outputs.regex = "(ab|cd)*";
  const auto grammar = compiler.compile(outputs);
  std::vector<std::unique_ptr<GrammarMatcher>> matchers;
  for (int i = 0; i < 50; ++i)
    matchers.push_back(
        std::make_unique<GrammarMatcher>(grammar, tokenizer_.vocab_size(), std::vector<int32_t>{}));
  MaskWorker worker;
  worker.wait();  // nothing yet
  for (int step = 0; step < 20; ++step) {
    for (const auto& matcher : matchers) worker.add(matcher.get());
    worker.add(nullptr);
    worker.wait();
    for (const auto& matcher : matchers) {
      EXPECT_TRUE(matcher->allows(0));
      EXPECT_TRUE(matcher->allows(3));
      EXPECT_FALSE(matcher->allows(2));
      EXPECT_TRUE(matcher->accept(step % 2 ? 0 : 3));
    }
  }
}

}  // namespace
}  // namespace nanovllm
