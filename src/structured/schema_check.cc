#include "structured/schema_check.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

namespace nanovllm {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 200;

constexpr const char* kUnsupported[] = {"not",
                                        "if",
                                        "then",
                                        "else",
                                        "dependentRequired",
                                        "dependentSchemas",
                                        "contains",
                                        "minContains",
                                        "maxContains",
                                        "dependencies",
                                        "additionalItems",
                                        "$dynamicRef",
                                        "$recursiveRef"};
// The first of these that a schema has is all of it that is read.
constexpr const char* kWhole[] = {"$ref", "const", "enum", "anyOf", "oneOf", "allOf"};
constexpr const char* kAssertions[] = {"$ref",
                                       "const",
                                       "enum",
                                       "anyOf",
                                       "oneOf",
                                       "allOf",
                                       "type",
                                       "properties",
                                       "required",
                                       "items",
                                       "prefixItems",
                                       "additionalProperties",
                                       "minProperties",
                                       "maxProperties",
                                       "propertyNames",
                                       "patternProperties",
                                       "minItems",
                                       "maxItems",
                                       "minLength",
                                       "maxLength",
                                       "pattern",
                                       "format",
                                       "minimum",
                                       "maximum",
                                       "multipleOf",
                                       "uniqueItems",
                                       "exclusiveMinimum",
                                       "exclusiveMaximum",
                                       "unevaluatedItems",
                                       "unevaluatedProperties"};
// Those that tell the type of a schema without one.
constexpr const char* kTelling[] = {"properties", "additionalProperties", "unevaluatedProperties",
                                    "items",      "prefixItems",          "unevaluatedItems"};

template <size_t n>
const char* first_of(const Json& schema, const char* const (&names)[n]) {
  for (const char* name : names)
    if (schema.contains(name)) return name;
  return nullptr;
}

bool is_of_type(const Json& value, const Json& type) {
  if (type.is_array())
    return std::any_of(type.begin(), type.end(),
                       [&](const Json& one) { return is_of_type(value, one); });
  if (!type.is_string()) return false;
  const std::string name = type.get<std::string>();
  return (name == "string" && value.is_string()) || (name == "boolean" && value.is_boolean()) ||
         (name == "null" && value.is_null()) || (name == "object" && value.is_object()) ||
         (name == "array" && value.is_array()) || (name == "number" && value.is_number()) ||
         (name == "integer" && value.is_number_integer());
}

// A type beside the one keyword that is read changes nothing if what that allows is of the type,
// or says its own.
bool type_is_implied(const Json& schema, const std::string& whole) {
  const Json& value = schema[whole];
  const Json& type = schema["type"];
  if (whole == "$ref") return true;
  if (whole == "const") return is_of_type(value, type);
  if (!value.is_array()) return true;
  return std::all_of(value.begin(), value.end(), [&](const Json& item) {
    if (whole == "enum") return is_of_type(item, type);
    return item.is_object() && (item.contains("type") || first_of(item, kWhole));
  });
}

std::string check(const Json& schema, int depth) {
  if (depth > kMaxDepth) return "is nested deeper than " + std::to_string(kMaxDepth) + " levels";
  if (!schema.is_object()) return "";
  if (const char* name = first_of(schema, kUnsupported))
    return std::string("the keyword ") + name + " is not supported";
  if (const auto it = schema.find("uniqueItems"); it != schema.end() && *it != false)
    return "the keyword uniqueItems is not supported";
  if (const char* whole = first_of(schema, kWhole)) {
    for (const char* name : kAssertions) {
      if (name == std::string(whole) || !schema.contains(name)) continue;
      if (name == std::string("type") && type_is_implied(schema, whole)) continue;
      return std::string("the keyword ") + name + " beside " + whole + " is not supported";
    }
  } else if (!schema.contains("type") && !first_of(schema, kTelling)) {
    if (const char* name = first_of(schema, kAssertions))
      return std::string("the keyword ") + name + " without a type is not supported";
  }
  std::string reason;
  auto look = [&](const Json& inner) {
    if (reason.empty()) reason = check(inner, depth + 1);
  };
  for (const char* name : {"items", "additionalProperties", "unevaluatedProperties",
                           "unevaluatedItems", "propertyNames"})
    if (const auto it = schema.find(name); it != schema.end()) look(*it);
  for (const char* name : {"anyOf", "oneOf", "allOf", "prefixItems", "properties",
                           "patternProperties", "$defs", "definitions"})
    if (const auto it = schema.find(name); it != schema.end() && it->is_structured())
      for (const Json& inner : *it) look(inner);
  return reason;
}

std::string check_within(const Json& value, int depth) {
  if (depth > kMaxDepth) return "is nested deeper than " + std::to_string(kMaxDepth) + " levels";
  if (!value.is_structured()) return "";
  std::string reason;
  if (value.is_object() && value.contains("json_schema")) reason = check(value["json_schema"], 0);
  for (const Json& inner : value)
    if (reason.empty()) reason = check_within(inner, depth + 1);
  return reason;
}

}  // namespace

std::string unsupported_in_schema(const std::string& schema) {
  return check(Json::parse(schema, nullptr, /*allow_exceptions=*/false), 0);
}

std::string unsupported_in_structural_tag(const std::string& tag) {
  return check_within(Json::parse(tag, nullptr, /*allow_exceptions=*/false), 0);
}

}  // namespace nanovllm
