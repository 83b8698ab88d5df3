#include <nlohmann/json.hpp>

#include "nanovllm/config.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using Json = nlohmann::json;

// Enough for any text, and small enough that a step's work stays bounded.
constexpr int64_t kMaxGuess = 256;
const char* const kExample = R"({"method": "ngram", "num_speculative_tokens": 4})";

void check_range(const std::string& flag, const char* key, int64_t value, int64_t low) {
  if (value < low || value > kMaxGuess)
    throw InvalidArgument(flag, std::string(key) + " is " + std::to_string(value) +
                                    ", allowed is " + std::to_string(low) + " to " +
                                    std::to_string(kMaxGuess));
}

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

}  // namespace

void SpeculativeConfig::validate() const {
  const char* const flag = "--speculative-config";
  if (!enabled()) return;
  if (method != "ngram")
    throw InvalidArgument(flag, "method is '" + method + "', allowed is ngram");
  check_range(flag, "num_speculative_tokens", num_speculative_tokens, 1);
  check_range(flag, "prompt_lookup_max", prompt_lookup_max, 0);
  check_range(flag, "prompt_lookup_min", prompt_lookup_min, 0);
  if (lookup_min() > lookup_max())
    throw InvalidArgument(flag, "prompt_lookup_min is " + std::to_string(lookup_min()) +
                                    ", more than prompt_lookup_max " +
                                    std::to_string(lookup_max()));
}

SpeculativeConfig parse_speculative_config(const std::string& flag, const std::string& text) {
  const Json object = Json::parse(text, nullptr, false);
  if (!object.is_object())
    throw InvalidArgument(flag,
                          "'" + text + "' is not a JSON object; give one such as " + kExample);
  SpeculativeConfig config;
  const std::pair<const char*, int64_t*> numbers[] = {
      {"num_speculative_tokens", &config.num_speculative_tokens},
      {"prompt_lookup_max", &config.prompt_lookup_max},
      {"prompt_lookup_min", &config.prompt_lookup_min}};
  for (const auto& [key, value] : object.items()) {
    if (key == "method") {
      if (value != "ngram")
        throw InvalidArgument(flag, "method is " + shown(value) + R"(, allowed is "ngram")");
      config.method = "ngram";
      continue;
    }
    int64_t* target = nullptr;
    for (const auto& [name, number] : numbers)
      if (key == name) target = number;
    if (!target)
      throw InvalidArgument(flag, "holds the unknown key " + shown(Json(key)) +
                                      ", allowed are method, num_speculative_tokens, "
                                      "prompt_lookup_max, prompt_lookup_min");
    if (!value.is_number_integer() || value < 1 || value > kMaxGuess)
      throw InvalidArgument(flag, key + " is " + shown(value) +
                                      ", allowed is an integer from 1 to " +
                                      std::to_string(kMaxGuess));
    *target = value.get<int64_t>();
  }
  for (const char* key : {"method", "num_speculative_tokens"})
    if (!object.contains(key))
      throw InvalidArgument(flag, std::string(key) + " is missing; give for example " + kExample);
  config.validate();
  return config;
}

}  // namespace nanovllm
