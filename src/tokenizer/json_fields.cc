#include "tokenizer/json_fields.h"

#include "nanovllm/error.h"

namespace nanovllm {

namespace {

const nlohmann::json* find(const nlohmann::json& object, const char* key,
                           const std::string& where) {
  if (!object.is_object()) throw Error(where, "is not an object");
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

[[noreturn]] void wrong(const char* key, const char* what, const std::string& where) {
  throw Error(where, std::string("'") + key + "' is not " + what);
}

}  // namespace

std::optional<std::string> find_string(const nlohmann::json& object, const char* key,
                                       const std::string& where) {
  const auto* value = find(object, key, where);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) wrong(key, "a string", where);
  return value->get<std::string>();
}

std::string get_string(const nlohmann::json& object, const char* key, const std::string& where) {
  auto value = find_string(object, key, where);
  if (!value) throw Error(where, std::string("'") + key + "' is missing");
  return *value;
}

bool get_bool(const nlohmann::json& object, const char* key, bool otherwise,
              const std::string& where) {
  const auto* value = find(object, key, where);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) wrong(key, "true or false", where);
  return value->get<bool>();
}

int64_t get_int(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto* value = find(object, key, where);
  if (value == nullptr) throw Error(where, std::string("'") + key + "' is missing");
  const bool whole = value->is_number_integer() &&
                     (!value->is_number_unsigned() || value->get<uint64_t>() <= 0x7FFFFFFF);
  if (!whole || value->get<int64_t>() < 0 || value->get<int64_t>() > 0x7FFFFFFF) {
    wrong(key, "a whole number from 0 to 2147483647", where);
  }
  return value->get<int64_t>();
}

const nlohmann::json& get_array(const nlohmann::json& object, const char* key,
                                const std::string& where) {
  const auto* value = find(object, key, where);
  if (value == nullptr || !value->is_array()) wrong(key, "an array", where);
  return *value;
}

PatternField get_pattern(const nlohmann::json& object, const std::string& where) {
  const auto* value = find(object, "pattern", where);
  if (value != nullptr && value->is_string()) return {value->get<std::string>(), false};
  if (value != nullptr && value->is_object()) {
    if (auto text = find_string(*value, "String", where)) return {*text, false};
    if (auto text = find_string(*value, "Regex", where)) return {*text, true};
  }
  wrong("pattern", "a String or a Regex", where);
}

}  // namespace nanovllm
