// Typed access to the objects of a tokenizer.json; every Error names the file and the key.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace nanovllm {

constexpr int kMaxPipelineDepth = 16;  // nested Sequences

std::string get_string(const nlohmann::json& object, const char* key, const std::string& where);
std::optional<std::string> find_string(const nlohmann::json& object, const char* key,
                                       const std::string& where);
bool get_bool(const nlohmann::json& object, const char* key, bool otherwise,
              const std::string& where);
int64_t get_int(const nlohmann::json& object, const char* key,
                const std::string& where);  // 0 .. 2^31-1
const nlohmann::json& get_array(const nlohmann::json& object, const char* key,
                                const std::string& where);

// {"String": "..."} or {"Regex": "..."} as a regular expression in Oniguruma's syntax; a bare
// string is literal.
struct PatternField {
  std::string text;
  bool regex = false;
};
PatternField get_pattern(const nlohmann::json& object, const std::string& where);

}  // namespace nanovllm
