#include "server/structured_request.h"

#include <initializer_list>

namespace nanovllm::openai {
namespace {

[[noreturn]] void wrong_type(const std::string& where, const Json& value, const char* wanted) {
  throw InvalidArgument(where, std::string("is ") + type_name(value) + "; must be " + wanted);
}

// A schema is an object, or true or false, or its text.
std::string schema_text(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_object() && !value.is_boolean()) wrong_type(where, value, "a JSON schema");
  return dump(value);
}

std::string text(const Json& value, const std::string& where) {
  if (!value.is_string()) wrong_type(where, value, "a string");
  return value.get<std::string>();
}

bool flag(const Json& value, const std::string& where) {
  if (!value.is_boolean()) wrong_type(where, value, "a boolean");
  return value.get<bool>();
}

std::vector<std::string> choices(const Json& value, const std::string& where) {
  if (!value.is_array()) wrong_type(where, value, "a list of strings");
  if (value.empty()) throw InvalidArgument(where, "is empty");
  std::vector<std::string> result;
  for (const Json& item : value) result.push_back(text(item, where));
  return result;
}

// One form by the name that structured_outputs gives it; false if there is none of that name.
bool set_form(StructuredOutputs& outputs, const std::string& form, const Json& value,
              const std::string& where) {
  if (form == "json")
    outputs.json = schema_text(value, where);
  else if (form == "json_object")
    outputs.json_object = flag(value, where);
  else if (form == "regex")
    outputs.regex = text(value, where);
  else if (form == "choice")
    outputs.choice = choices(value, where);
  else if (form == "grammar")
    outputs.grammar = text(value, where);
  else if (form == "structural_tag")
    outputs.structural_tag = value.is_object() ? dump(value) : text(value, where);
  else
    return false;
  return true;
}

StructuredOutputs parse_response_format(const Json& object) {
  const std::string where = "response_format";
  const Fields format(object, where);
  const auto type = format.string("type");
  StructuredOutputs outputs;
  if (type == "json_object") {
    outputs.json_object = true;
  } else if (type == "json_schema") {
    const Json* wrapper = format.object("json_schema");
    if (!wrapper) throw InvalidArgument(where, "has no json_schema");
    const Fields named(*wrapper, where);
    const Json* schema = named.get("schema");
    if (!schema) throw InvalidArgument(where, "json_schema has no schema");
    outputs.json = schema_text(*schema, where);
    named.string("name");
    named.string("description");
    named.boolean("strict");  // it always is
    named.refuse_others(where + ".json_schema.");
  } else if (type != "text") {
    throw InvalidArgument(where, (type ? "type is " + dump(Json(*type)) : "has no type") +
                                     "; must be \"text\", \"json_object\" or \"json_schema\"");
  }
  format.get("json_schema");  // a client may send it beside another type
  format.refuse_others(where + ".");
  return outputs;
}

}  // namespace

StructuredOutputs parse_structured_outputs(const Json& object, const std::string& where) {
  if (!object.is_object()) wrong_type(where, object, "an object");
  StructuredOutputs outputs;
  for (const auto& [name, value] : object.items()) {
    if (value.is_null()) continue;
    if (set_form(outputs, name, value, where + "." + name)) continue;
    if (name == "disable_any_whitespace")
      outputs.disable_any_whitespace = flag(value, where + "." + name);
    else if (value != false)  // vLLM's other switches, left off
      throw InvalidArgument(where + "." + name, "is not supported");
  }
  if (!outputs.enabled())
    throw InvalidArgument(where, "must have one of json, json_object, regex, choice, grammar");
  return outputs;
}

StructuredField parse_structured(const Fields& fields) {
  StructuredField result;
  auto add = [&](const char* name, StructuredOutputs outputs) {
    if (!outputs.enabled()) return;
    if (result.outputs.enabled())
      throw InvalidArgument(name, "cannot be combined with " + result.name);
    try {
      outputs.validate();
    } catch (const InvalidArgument& e) {
      throw InvalidArgument(name, e.reason());
    }
    result = {std::move(outputs), name};
  };
  if (const Json* format = fields.object("response_format"))
    add("response_format", parse_response_format(*format));
  if (const Json* object = fields.get("structured_outputs"))
    add("structured_outputs", parse_structured_outputs(*object, "structured_outputs"));
  for (const char* name : {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}) {
    const Json* value = fields.get(name);
    if (!value) continue;
    StructuredOutputs outputs;
    set_form(outputs, name + sizeof("guided_") - 1, *value, name);
    add(name, std::move(outputs));
  }
  return result;
}

}  // namespace nanovllm::openai
