// ConfigReader: typed, checked access to the keys of a configuration file. Every complaint is an
// Error naming file and key.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/json.h"
#include "nanovllm/error.h"

namespace nanovllm {

using Json = nlohmann::json;

inline Json parse_json_object(std::string_view text, const std::string& name) {
  Json j =
      parse_json(text, name);  // bounds the depth, which copies and comparisons below recurse into
  if (!j.is_object()) throw Error(name, "is not a JSON object");
  return j;
}

// null counts as absent, as in transformers. Refers to the object; does not own it.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string name) : json_(json), name_(std::move(name)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  bool at_exists(const char* key) const { return json_.contains(key); }  // null counts here
  const Json& at(const char* key) const { return json_[key]; }

  int64_t integer(const char* key, std::optional<int64_t> fallback, int64_t low,
                  int64_t high) const {
    if (!has(key)) {
      if (!fallback) throw Error(name_, std::string("key '") + key + "' is missing");
      return *fallback;
    }
    const Json& v = json_[key];
    if (!v.is_number_integer()) fail(key, "is not an integer");
    const bool beyond_int64 = v.is_number_unsigned() && v.get<uint64_t>() > INT64_MAX;
    if (beyond_int64 || v.get<int64_t>() < low || v.get<int64_t>() > high)
      fail(key, "is " + v.dump() + ", allowed is " + std::to_string(low) + " to " +
                    std::to_string(high));
    return v.get<int64_t>();
  }
  double number(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_number()) fail(key, "is not a number");
    const double v = json_[key].get<double>();
    if (!std::isfinite(v)) fail(key, "is not finite");
    return v;
  }
  // The bounds keep float32 arithmetic with the value finite.
  double positive(const char* key, double fallback, double low = 1e-20, double high = 1e15) const {
    const double v = number(key, fallback);
    if (v < low || v > high)
      fail(key, "is " + Json(v).dump() + ", allowed is " + Json(low).dump() + " to " +
                    Json(high).dump());
    return v;
  }
  double optional_factor(const char* key) const {  // 0: not given
    return has(key) && number(key, 0) != 0 ? positive(key, 0, 1e-6, 1e6) : 0.0;
  }
  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_boolean()) fail(key, "is not true or false");
    return json_[key].get<bool>();
  }
  std::string string(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_string()) fail(key, "is not a string");
    return json_[key].get<std::string>();
  }
  std::vector<int32_t> token_ids(const char* key) const {  // one id or a list
    std::vector<int32_t> ids;
    if (!has(key)) return ids;
    auto add = [&](const Json& v) {
      if (!v.is_number_integer() ||
          (v.is_number_unsigned() ? v.get<uint64_t>() > INT32_MAX : v.get<int64_t>() < -1))
        fail(key, "is not a token id or a list of them");
      if (v.get<int64_t>() >= 0) ids.push_back(v.get<int32_t>());
    };
    const Json& v = json_[key];
    if (v.is_array())
      for (const Json& e : v) add(e);
    else
      add(v);
    return ids;
  }
  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw Error(name_, "key '" + key + "' " + what);
  }
  const std::string& name() const { return name_; }

 private:
  const Json& json_;
  std::string name_;
};

}  // namespace nanovllm
