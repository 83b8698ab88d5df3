// --speculative-config: vLLM's keys and defaults, and complaints that name the key, the value and
// what is allowed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nanovllm/config.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

SpeculativeConfig parse(const std::string& text) {
  return parse_speculative_config("--speculative-config", text);
}

std::string refusal(const std::string& text) {
  try {
    parse(text);
  } catch (const InvalidArgument& e) {
    EXPECT_EQ(e.where(), "--speculative-config");
    return e.reason();
  }
  return "accepted";
}

TEST(SpeculativeConfig, ReadsEveryKey) {
  const auto c = parse(
      R"({"method":"ngram","num_speculative_tokens":4,"prompt_lookup_max":6,"prompt_lookup_min":2})");
  EXPECT_TRUE(c.enabled());
  EXPECT_EQ(c.num_speculative_tokens, 4);
  EXPECT_EQ(c.lookup_max(), 6);
  EXPECT_EQ(c.lookup_min(), 2);
}

TEST(SpeculativeConfig, DefaultsAreVllms) {
  EXPECT_FALSE(SpeculativeConfig().enabled());
  auto range = [](const std::string& more) {
    const auto c = parse(R"({"method": "ngram", "num_speculative_tokens": 1)" + more + "}");
    return std::pair(c.lookup_min(), c.lookup_max());
  };
  EXPECT_EQ(range(""), std::pair(int64_t{5}, int64_t{5}));
  EXPECT_EQ(range(R"(, "prompt_lookup_max": 3)"), std::pair(int64_t{3}, int64_t{3}));
  EXPECT_EQ(range(R"(, "prompt_lookup_min": 7)"), std::pair(int64_t{7}, int64_t{7}));
}

TEST(SpeculativeConfig, RefusalsNameKeyValueAndWhatIsAllowed) {
  using testing::HasSubstr;
  EXPECT_THAT(refusal("ngram"), HasSubstr("'ngram' is not a JSON object"));
  EXPECT_THAT(refusal("[]"), HasSubstr("not a JSON object"));
  EXPECT_THAT(refusal("{}"), HasSubstr("method is missing"));
  EXPECT_THAT(refusal(R"({"method":"ngram"})"), HasSubstr("num_speculative_tokens is missing"));
  EXPECT_THAT(refusal(R"({"method":"eagle","num_speculative_tokens":2})"),
              HasSubstr(R"(method is "eagle", allowed is "ngram")"));
  EXPECT_THAT(refusal(R"({"method":null,"num_speculative_tokens":2})"),
              HasSubstr(R"(method is null, allowed is "ngram")"));
  EXPECT_THAT(refusal(R"({"method":"ngram","num_speculative_tokens":2,"model":"x"})"),
              HasSubstr(R"(unknown key "model", allowed are method, num_speculative_tokens)"));
  for (const char* value : {"0", "-1", "257", "2.5", "\"2\"", "true", "null", "1e30",
                            "18446744073709551615", "-9223372036854775808"}) {
    EXPECT_THAT(
        refusal(std::string(R"({"method":"ngram","num_speculative_tokens":)") + value + "}"),
        testing::AllOf(testing::StartsWith("num_speculative_tokens is "),
                       HasSubstr("allowed is an integer from 1 to 256")));
    EXPECT_THAT(
        refusal(
            std::string(R"({"method":"ngram","num_speculative_tokens":1,"prompt_lookup_min":)") +
            value + "}"),
        testing::StartsWith("prompt_lookup_min is "));
  }
  EXPECT_EQ(refusal(R"({"method":"ngram","num_speculative_tokens":2,"prompt_lookup_max":2,)"
                    R"("prompt_lookup_min":3})"),
            "prompt_lookup_min is 3, more than prompt_lookup_max 2");
}

TEST(SpeculativeConfig, EngineConfigChecksWhatWasNotParsed) {
  EngineConfig config;
  for (const SpeculativeConfig& wrong : {SpeculativeConfig{"medusa", 2},
                                         {"ngram", 0},
                                         {"ngram", 2, -1},
                                         {"ngram", 2, 2, 3},
                                         {"ngram", 257}}) {
    config.speculative_config = wrong;
    EXPECT_THROW(config.validate(), InvalidArgument);
  }
  config.speculative_config = {"ngram", 2};
  config.validate();
}

}  // namespace
}  // namespace nanovllm
