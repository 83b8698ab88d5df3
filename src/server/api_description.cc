#include "server/api_description.h"

#include <algorithm>

#include "server/embedded_files.h"

namespace nanovllm {
namespace {

using openai::Json;

const EmbeddedFile& file() { return *find_embedded_file("openapi.json"); }

bool takes(const Json& schema, const char* type) {
  const auto types = schema.find("type");
  if (types == schema.end()) return true;
  if (types->is_string()) return *types == type;
  return std::ranges::find(*types, Json(type)) != types->end();
}

// Walks value and schema together.
class Walk {
 public:
  explicit Walk(const Json& document) : document_(document) {}

  // The path of the first member that is not described; empty if all are.
  std::string unknown(const Json& schema_or_reference, const Json& value) const {
    if (!value.is_structured()) return "";
    const Json& schema = resolve(schema_or_reference);
    if (const auto choices = schema.find("anyOf"); choices != schema.end())
      return unknown_to_all(*choices, value);
    return value.is_object() ? unknown_in_object(schema, value) : unknown_in_array(schema, value);
  }

 private:
  const Json& resolve(const Json& schema) const {
    const auto reference = schema.find("$ref");  // "#/components/schemas/Message"
    if (reference == schema.end()) return schema;
    return document_.at(Json::json_pointer(reference->get<std::string>().substr(1)));
  }

  // Every alternative that takes this type of value complains: the last complaint.
  std::string unknown_to_all(const Json& choices, const Json& value) const {
    std::string found;
    for (const Json& choice : choices) {
      if (!takes(resolve(choice), value.is_object() ? "object" : "array")) continue;
      found = unknown(choice, value);
      if (found.empty()) break;
    }
    return found;
  }

  std::string unknown_in_object(const Json& schema, const Json& value) const {
    static const Json kNone = Json::object();
    const auto described = schema.find("properties"), others = schema.find("additionalProperties");
    const Json& properties = described == schema.end() ? kNone : *described;
    const bool closed = others != schema.end() && *others == false;
    for (const auto& [name, member] : value.items()) {
      const auto property = properties.find(name);
      if (property == properties.end()) {
        if (closed) return name;
        continue;
      }
      const std::string below = unknown(*property, member);
      if (!below.empty()) return name + "." + below;
    }
    return "";
  }

  std::string unknown_in_array(const Json& schema, const Json& value) const {
    const auto items = schema.find("items");
    if (items == schema.end()) return "";
    for (const Json& item : value) {
      std::string below = unknown(*items, item);
      if (!below.empty()) return below;
    }
    return "";
  }

  const Json& document_;
};

}  // namespace

ApiDescription::ApiDescription() : document_(Json::parse(file().bytes)) {}

std::string_view ApiDescription::text() const { return file().bytes; }

void ApiDescription::check_members(const char* schema, const Json& body) const {
  const std::string name =
      Walk(document_).unknown(document_["components"]["schemas"][schema], body);
  if (!name.empty()) throw InvalidArgument(name, "is not a field of this request");
}

}  // namespace nanovllm
