// Histograms and counters by hand-counted values; and the text, line by line, in Prometheus's form.
#include "server/metrics.h"

#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <sstream>

namespace nanovllm {
namespace {

// {`name{labels}`: value}. Every line must be a comment or a sample, and every sample's family must
// have been announced before it, once.
std::map<std::string, double> samples(const std::string& text) {
  static const std::regex kSample(
      R"re(([a-zA-Z_:][a-zA-Z0-9_:]*)(\{[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"(?:,[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*")*\})? (\S+))re");
  std::map<std::string, double> result;
  std::map<std::string, std::string> types;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (line.starts_with("# TYPE ")) {
      std::istringstream words(line.substr(7));
      std::string name, type;
      words >> name >> type;
      EXPECT_TRUE(types.emplace(name, type).second) << "twice: " << line;
    } else if (!line.starts_with("# HELP ")) {
      EXPECT_TRUE(std::regex_match(line, match, kSample)) << line;
      if (match.empty()) continue;
      std::string family = match[1];
      if (!types.contains(family))
        family = std::regex_replace(family, std::regex("_(bucket|sum|count)$"), "");
      EXPECT_TRUE(types.contains(family)) << line;
      EXPECT_TRUE(result.emplace(match[1].str() + match[2].str(), std::stod(match[3])).second)
          << "twice: " << line;
    }
  }
  EXPECT_TRUE(text.ends_with("\n"));
  return result;
}

TEST(Histogram, CountsUpToAndWithEachBound) {
  Histogram histogram({1, 2.5, 10});
  for (const double value : {0.5, 1.0, 1.1, 2.5, 11.0}) histogram.observe(value);
  std::string text;
  histogram.write(&text, "h", "a=\"b\"");
  EXPECT_EQ(text,
            "h_bucket{a=\"b\",le=\"1\"} 2\n"
            "h_bucket{a=\"b\",le=\"2.5\"} 4\n"
            "h_bucket{a=\"b\",le=\"10\"} 4\n"
            "h_bucket{a=\"b\",le=\"+Inf\"} 5\n"
            "h_sum{a=\"b\"} 16.1\n"
            "h_count{a=\"b\"} 5\n");
}

TEST(Metrics, ACallIsCountedWhereItBelongs) {
  Metrics metrics("m", "1", {"alice", "bob"}, 100);
  // Two completions of three tokens: arrived at 1, entered at 2, first token at 4, last at 8.
  metrics.add_call({.key = 1,
                    .arrived = 1,
                    .entered = 2,
                    .first_token = 4,
                    .last_token = 8,
                    .prompt_tokens = 10,
                    .cached_tokens = 4,
                    .output_tokens = 6,
                    .n = 2,
                    .max_tokens = 3,
                    .finish_reasons = {FinishReason::kLength, FinishReason::kStop}},
                   9);
  // One that left before its first token, and one that never entered the engine.
  metrics.add_call({.key = 0, .arrived = 5, .entered = 6, .finish_reasons = {FinishReason::kAbort}},
                   7);
  metrics.add_refusal(0);
  metrics.add_response(200);
  metrics.add_response(429);
  metrics.add_response(200);
  metrics.add_token_gap(0.02);
  auto text =
      samples(metrics.text({}, {{.waiting = 3, .running = 1}, {.waiting = 0, .running = 2}}));
  const auto of_model = [&](const std::string& name) {
    return text.at("nano_vllm:" + name + "{model_name=\"m\"}");
  };
  EXPECT_EQ(of_model("prompt_tokens_total"), 10);
  EXPECT_EQ(of_model("prefix_cache_queries_total"), 10);
  EXPECT_EQ(of_model("prefix_cache_hits_total"), 4);
  EXPECT_EQ(of_model("num_requests_waiting"), 3);
  EXPECT_EQ(of_model("e2e_request_latency_seconds_sum"), 8);
  EXPECT_EQ(of_model("request_queue_time_seconds_sum"), 2);
  EXPECT_EQ(of_model("request_queue_time_seconds_count"), 2);
  EXPECT_EQ(of_model("request_inference_time_seconds_sum"), 7);
  EXPECT_EQ(of_model("time_to_first_token_seconds_sum"), 3);
  EXPECT_EQ(of_model("request_prefill_time_seconds_sum"), 2);
  EXPECT_EQ(of_model("request_decode_time_seconds_sum"), 4);
  EXPECT_EQ(of_model("request_time_per_output_token_seconds_sum"), 2);  // two gaps in 4 s, twice
  EXPECT_EQ(of_model("inter_token_latency_seconds_count"), 1);
  EXPECT_EQ(of_model("request_params_n_sum"), 2);
  EXPECT_EQ(of_model("request_prompt_tokens_count"), 1);
  const auto by = [&](const std::string& name, const std::string& label) {
    return text.at("nano_vllm:" + name + "{" + label + "}");
  };
  for (const auto& [reason, count] :
       std::map<std::string, int>{{"stop", 1}, {"length", 1}, {"abort", 1}})
    EXPECT_EQ(by("request_success_total", "model_name=\"m\",finished_reason=\"" + reason + "\""),
              count);
  EXPECT_EQ(by("key_requests_total", "key=\"alice\""), 1);
  EXPECT_EQ(by("key_requests_refused_total", "key=\"alice\""), 1);
  EXPECT_EQ(by("key_generation_tokens_total", "key=\"bob\""), 6);
  EXPECT_EQ(by("key_cached_tokens_total", "key=\"bob\""), 4);
  EXPECT_EQ(by("key_requests_running", "key=\"bob\""), 2);
  EXPECT_EQ(by("http_responses_total", "status=\"200\""), 2);
  EXPECT_EQ(by("http_responses_total", "status=\"429\""), 1);
}

TEST(Metrics, StepsAreWhatTheyHaveAdded) {
  Metrics metrics("m", "1", {""}, 100);
  metrics.add_step({.steps = 1, .prompt_tokens_computed = 20});
  metrics.add_step({.steps = 1, .prompt_tokens_computed = 20});  // no step in between
  metrics.add_step({.steps = 2, .prompt_tokens_computed = 24, .tokens_generated = 2});
  const auto text = samples(metrics.text({}, {{}}));
  EXPECT_EQ(text.at("nano_vllm:iteration_tokens_total_count{model_name=\"m\"}"), 2);
  EXPECT_EQ(text.at("nano_vllm:iteration_tokens_total_sum{model_name=\"m\"}"), 26);
}

TEST(Metrics, NamesOfTheOperatorAreEscaped) {
  const auto text = samples(Metrics("a\"b\\c\nd", "1", {""}, 100).text({}, {{}}));
  EXPECT_TRUE(text.contains(R"(nano_vllm:num_requests_running{model_name="a\"b\\c\nd"})"));
}

}  // namespace
}  // namespace nanovllm
