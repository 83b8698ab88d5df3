// What is compiled and what is refused, above all of those who mean ill: within the limits, by
// name, and nobody else's request suffers.
#include "structured/grammar_compiler.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <mutex>
#include <thread>

#include "nanovllm/error.h"
#include "structured/grammar_matcher.h"
#include "structured/test_tokenizer.h"

namespace nanovllm {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

TEST(Rehearsal, WhatReturnsMayBeDone) {
  EXPECT_EQ(rehearse([] {}, {}), "");
}

TEST(Rehearsal, WhatItThrowsIsTheReason) {
  EXPECT_EQ(rehearse([] { throw std::runtime_error("no such thing"); }, {}), "no such thing");
  EXPECT_EQ(rehearse([] { throw 1; }, {}), "is not accepted");
}

TEST(Rehearsal, ItsTimeIsLimited) {
  const auto start = Clock::now();
  EXPECT_EQ(rehearse(
                [] {
                  volatile bool forever = true;
                  while (forever) {
                  }
                },
                {.seconds = 0.5}),
            "takes longer than 0.5 s");
  EXPECT_LT(seconds_since(start), 3);
}

TEST(Rehearsal, ItsMemoryIsLimited) {
  const std::string reason = rehearse(
      [] {
        const size_t bytes = size_t{1} << 28;
        void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) throw std::bad_alloc();
      },
      {.bytes = size_t{1} << 26});
  EXPECT_EQ(reason, "takes too much memory");
}

TEST(Rehearsal, ItMayDie) {
  EXPECT_EQ(rehearse([] { std::abort(); }, {}), "takes too much memory");
  EXPECT_EQ(rehearse([] { raise(SIGKILL); }, {}), "takes too much memory");
}

// A lock that another thread holds while this one forks stays locked in the child.
TEST(Rehearsal, AChildThatWaitsForALockIsStartedAnew) {
  std::mutex mutex;
  const auto take = [&] { const std::lock_guard lock(mutex); };
  std::promise<void> locked;
  std::thread other([&] {
    const std::lock_guard lock(mutex);
    locked.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  });
  locked.get_future().wait();
  const auto start = Clock::now();
  EXPECT_EQ(rehearse(take, {.seconds = 60}), "");
  EXPECT_GT(seconds_since(start), 0.4);
  EXPECT_LT(seconds_since(start), 30);
  other.join();
  const std::lock_guard lock(mutex);
  EXPECT_EQ(rehearse(take, {.seconds = 0.2}), "takes longer than 0.2 s");
}

TEST(Rehearsal, WhatItDoesIsNotSeenHere) {
  int value = 1;
  EXPECT_EQ(rehearse([&] { value = 2; }, {}), "");
  EXPECT_EQ(value, 1);
}

class GrammarCompilerTest : public testing::Test {
 protected:
  static StructuredOutputs form(const std::string& name, const std::string& text) {
    StructuredOutputs outputs;
    if (name == "json") outputs.json = text;
    if (name == "regex") outputs.regex = text;
    if (name == "grammar") outputs.grammar = text;
    if (name == "structural_tag") outputs.structural_tag = text;
    return outputs;
  }
  // Why it is refused; "" if it is not.
  std::string refusal(const std::string& name, const std::string& text) {
    try {
      compiler_.compile(form(name, text));
      return "";
    } catch (const InvalidArgument& e) {
      EXPECT_EQ(e.where(), "structured_outputs");
      return e.reason();
    }
  }
  const TestTokenizer tokenizer_ = TestTokenizer::bytes_and({"ab", "{\"", "\": "});
  GrammarCompiler compiler_{
      tokenizer_, tokenizer_.vocab_size(), {tokenizer_.eos()}, {.seconds = 3}};
};

TEST_F(GrammarCompilerTest, WhatIsWrongIsRefusedByItsForm) {
  EXPECT_TRUE(refusal("regex", "(a").starts_with("regex: ")) << refusal("regex", "(a");
  EXPECT_TRUE(refusal("json", "{").starts_with("json: "));
  EXPECT_TRUE(refusal("json", R"({"type": "nothing"})").starts_with("json: "));
  EXPECT_TRUE(refusal("grammar", "root ::= undefined").starts_with("grammar: "));
  EXPECT_TRUE(refusal("grammar", "start ::= \"a\"").starts_with("grammar: "));
  EXPECT_TRUE(refusal("structural_tag", "{}").starts_with("structural_tag: "));
  EXPECT_EQ(refusal("regex", ""), "regex: is empty");
  EXPECT_EQ(refusal("json", R"({"type": "object"})"), "");
}

// xgrammar would go on without these.
TEST_F(GrammarCompilerTest, WhatWouldBeIgnoredIsRefused) {
  for (const char* schema :
       {R"({"type": "array", "uniqueItems": true})", R"({"not": {"type": "string"}})",
        R"({"type": "number", "multipleOf": 0.5})", R"({"if": {}, "then": {}, "type": "string"})",
        R"({"type": "array", "contains": {"type": "string"}})",
        R"({"allOf": [{"type": "string"}, {"minLength": 2}]})"})
    EXPECT_TRUE(refusal("json", schema).starts_with("json: ")) << schema;
  EXPECT_EQ(refusal("json", R"({"properties": {"not": {"type": "null"}, "if": {"const": 1}}})"),
            "");
  EXPECT_EQ(refusal("json", R"({"type": "object", "properties": {"a": {"enum": [1, 2],
      "type": "integer", "description": "d"}}, "required": ["a"]})"),
            "");
  EXPECT_EQ(refusal("json", R"({"type": "object", "properties": {"a": {"minLength": 2}}})"),
            "json: the keyword minLength without a type is not supported");
  EXPECT_EQ(refusal("json", R"({"properties": {}, "anyOf": [{"required": ["a"]}]})"),
            "json: the keyword properties beside anyOf is not supported");
  EXPECT_EQ(refusal("json", R"({"enum": [1, "a"], "type": "integer"})"),
            "json: the keyword type beside enum is not supported");
  EXPECT_EQ(refusal("structural_tag",
                    R"({"format": {"type": "json_schema", "json_schema": {"not": {}}}})"),
            "structural_tag: the keyword not is not supported");
  EXPECT_TRUE(refusal("regex", "a(?=b)c").starts_with("regex: "));
  EXPECT_TRUE(refusal("regex", "a$b").starts_with("regex: "));
}

TEST_F(GrammarCompilerTest, TheHostileAreRefusedInTime) {
  std::string deep = R"({"type": "string"})", wide = R"({"type": "object", "properties": {)",
              branches = "\"x\"", many = "a";
  for (int i = 0; i < 5000; ++i) deep = R"({"type": "array", "items": )" + deep + "}";
  for (int i = 0; i < 20000; ++i)
    wide += (i ? ", \"p" : "\"p") + std::to_string(i) + R"(": {"type": "number"})";
  wide += "}}";
  std::string doubling = "root ::= r0\n";
  for (int i = 0; i < 40; ++i)
    doubling += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + " r" +
                std::to_string(i + 1) + "\n";
  doubling += "r40 ::= \"a\" | \"\"\n";
  const std::pair<const char*, std::string> cases[] = {
      {"regex", "a{1000000}"},
      {"regex", "((a{1,1000}){1,1000}){1,1000}"},
      {"regex", "(((((a*)*)*)*)*)*b"},
      {"regex", std::string(100000, '(') + "a" + std::string(100000, ')')},
      {"regex", "(a|b|ab)*c(a|b|ab){500}"},
      {"regex", std::string(500000, 'a')},
      {"grammar", "root ::= " + std::string(100000, '(') + "\"a\"" + std::string(100000, ')')},
      {"grammar", "root ::= root root | \"a\" | \"\""},
      {"grammar", "root ::= root"},
      {"grammar", doubling},
      {"grammar",
       "root ::= a\na ::= \"a\" b | \"a\" c | \"a\" d | \"a\" | \"\"\n"
       "b ::= a a | a\nc ::= b a\nd ::= c b a | a d"},
      {"json", deep},
      {"json", wide},
      {"json", R"({"$ref": "#"})"},
      {"json", R"({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})"},
      {"json", R"({"type": "string", "minLength": 1000000000})"},
      {"json", R"({"type": "array", "minItems": 100000000, "items": {"type": "string"}})"},
      {"json", R"({"type": "string", "pattern": "((a{1,999}){1,999}){1,999}"})"},
  };
  for (const auto& [name, text] : cases) {
    const auto start = Clock::now();
    const std::string reason = refusal(name, text);
    // The rehearsal, which may take three times the limit on a busy machine, and what passed it
    // done once more.
    EXPECT_LT(seconds_since(start), 20) << name << " " << text.substr(0, 60) << " " << reason;
    EXPECT_LT(reason.size(), 1100u);
  }
  EXPECT_EQ(refusal("regex", "still (here|well)"), "");
}

// It compiles in no time and is then read in ever more ways: nobody waits for long.
TEST_F(GrammarCompilerTest, AMatcherGivesUp) {
  const auto grammar = compiler_.compile(form("grammar", "root ::= root root | \"a\" | \"\""));
  GrammarMatcher matcher(grammar, tokenizer_.vocab_size(), {});
  const int32_t a = 3 + 'a';
  double slowest = 0;
  const auto start = Clock::now();
  int tokens = 0;
  for (; tokens < 5000 && !matcher.gave_up(); ++tokens) {
    const auto before = Clock::now();
    matcher.prepare();
    matcher.accept(a);
    slowest = std::max(slowest, seconds_since(before));
  }
  EXPECT_TRUE(matcher.gave_up());
  EXPECT_GT(tokens, 50);
  EXPECT_LT(slowest, 3);  // 0.1 s on a quiet machine
  EXPECT_LT(seconds_since(start), 60);
  matcher.prepare();
  EXPECT_FALSE(matcher.allows(a));
  EXPECT_FALSE(matcher.accept(a));
}

TEST_F(GrammarCompilerTest, WhatWasCompiledOnceIsKept) {
  const auto first = compiler_.compile(form("regex", "a+"));
  EXPECT_EQ(compiler_.compile(form("regex", "a+")), first);
  EXPECT_NE(compiler_.compile(form("regex", "a*")), first);
  EXPECT_TRUE(compiler_.made(*first));
  const TestTokenizer other({"x"});
  GrammarCompiler elsewhere(other, 2, {1}, {});
  EXPECT_FALSE(elsewhere.made(*first));
  for (int i = 0; i < 300; ++i) compiler_.compile(form("regex", "b" + std::to_string(i)));
  EXPECT_NE(compiler_.compile(form("regex", "a+")), first);  // no more
  EXPECT_TRUE(compiler_.made(*first));                       // but whoever holds it may
}

TEST_F(GrammarCompilerTest, ARefusalIsKeptToo) {
  const auto start = Clock::now();
  for (int i = 0; i < 1000; ++i) EXPECT_NE(refusal("regex", "(a"), "");
  EXPECT_LT(seconds_since(start), 2);
}

TEST_F(GrammarCompilerTest, ManyThreads) {
  GrammarCompiler patient(tokenizer_, tokenizer_.vocab_size(), {tokenizer_.eos()}, {.seconds = 60});
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 6; ++i) {
        const std::string number = std::to_string((i + t) % 6 + 1);
        EXPECT_NO_THROW(patient.compile(form("regex", "c{" + number + "}")));
        EXPECT_THROW(patient.compile(form("regex", "c)" + number)), InvalidArgument);
      }
    });
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace nanovllm
