#include "server/openai_json.h"

#include <cmath>
#include <limits>
#include <vector>

namespace nanovllm::openai {
namespace {

constexpr size_t kMaxDepth = 100, kMaxMembers = 10'000, kMaxValues = 2'000'000;

// One pass over the bytes before the parser allocates anything. What is not JSON is left for the
// parser to refuse.
void check_limits(std::string_view text) {
  std::vector<size_t> members;  // of each open array or object
  bool in_string = false;
  size_t values = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == ',') {
      ++values;
    } else if (c == '{' || c == '[') {
      members.push_back(0);
      ++values;
      if (members.size() > kMaxDepth)
        throw InvalidArgument("body",
                              "is nested deeper than " + std::to_string(kMaxDepth) + " levels");
    } else if ((c == '}' || c == ']') && !members.empty()) {
      members.pop_back();
    } else if (c == ':' && !members.empty() && ++members.back() > kMaxMembers) {
      throw InvalidArgument(
          "body", "has an object of more than " + std::to_string(kMaxMembers) + " members");
    }
    if (values > kMaxValues)
      throw InvalidArgument("body", "holds more than " + std::to_string(kMaxValues) + " values");
  }
}

[[noreturn]] void wrong_type(const std::string& name, const Json& value, const char* wanted) {
  throw InvalidArgument(name, std::string("is ") + type_name(value) + "; must be " + wanted);
}

}  // namespace

Json parse_body(std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes)
    throw InvalidArgument("body", "is larger than " + std::to_string(max_bytes) + " bytes");
  check_limits(text);
  try {
    return Json::parse(text.begin(), text.end());
  } catch (const Json::exception& e) {
    std::string reason = e.what();  // "[json.exception.parse_error.101] parse error at ..."
    if (const size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    if (reason.size() > 200) reason.resize(200);
    for (char& c : reason)
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
    throw InvalidArgument("body", "is not valid JSON: " + reason);
  }
}

std::string dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

const char* type_name(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::number_float:
      return "a number";
    default:
      return "an integer";
  }
}

int64_t to_integer(const std::string& name, const Json& value, int64_t min, int64_t max) {
  int64_t result = 0;
  bool fits = false;
  if (value.is_number_unsigned()) {
    fits = value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    if (fits) result = static_cast<int64_t>(value.get<uint64_t>());
  } else if (value.is_number_integer()) {
    fits = true;
    result = value.get<int64_t>();
  } else if (value.is_number_float() &&
             std::nearbyint(value.get<double>()) == value.get<double>()) {
    fits = std::fabs(value.get<double>()) < 9.2e18;
    if (fits) result = static_cast<int64_t>(value.get<double>());
  } else {
    wrong_type(name, value, "an integer");
  }
  if (!fits || result < min || result > max) {
    std::string allowed = "must be from " + std::to_string(min) + " to " + std::to_string(max);
    throw InvalidArgument(name, "is " + value.dump() + "; " + allowed);
  }
  return result;
}

Fields::Fields(const Json& object, const std::string& where) : object_(object) {
  if (!object.is_object()) wrong_type(where, object, "an object");
}

void Fields::refuse_others(const std::string& within) const {
  for (const auto& [name, value] : object_.items())
    if (!asked_for_.contains(name))
      throw InvalidArgument(within + (name.size() <= 64 ? name : name.substr(0, 64) + "..."),
                            "is not supported");
}

const Json* Fields::get(const char* name) const {
  asked_for_.insert(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::optional<bool> Fields::boolean(const char* name) const {
  const Json* value = get(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) wrong_type(name, *value, "a boolean");
  return value->get<bool>();
}

std::optional<int64_t> Fields::integer(const char* name) const {
  const Json* value = get(name);
  if (!value) return std::nullopt;
  return to_integer(name, *value, std::numeric_limits<int64_t>::min(),
                    std::numeric_limits<int64_t>::max());
}

std::optional<double> Fields::number(const char* name) const {
  const Json* value = get(name);
  if (!value) return std::nullopt;
  if (!value->is_number()) wrong_type(name, *value, "a number");
  return value->get<double>();  // finite: the parser refuses what overflows
}

std::optional<std::string> Fields::string(const char* name) const {
  const Json* value = get(name);
  if (!value) return std::nullopt;
  if (!value->is_string()) wrong_type(name, *value, "a string");
  return value->get<std::string>();
}

const Json* Fields::array(const char* name) const {
  const Json* value = get(name);
  if (value && !value->is_array()) wrong_type(name, *value, "an array");
  return value;
}

const Json* Fields::object(const char* name) const {
  const Json* value = get(name);
  if (value && !value->is_object()) wrong_type(name, *value, "an object");
  return value;
}

}  // namespace nanovllm::openai
