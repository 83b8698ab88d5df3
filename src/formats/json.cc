#include "formats/json.h"

#include <set>
#include <vector>

#include "formats/mapped_file.h"
#include "formats/text.h"
#include "nanovllm/error.h"

namespace nanovllm {

using nlohmann::json;

nlohmann::json parse_json(std::string_view text, const std::string& where, int max_depth) {
  std::vector<std::set<std::string>> keys;  // of each open object; an empty set for an open array
  auto check = [&](int, json::parse_event_t event, json& parsed) {
    switch (event) {
      case json::parse_event_t::object_start:
      case json::parse_event_t::array_start:
        if (static_cast<int>(keys.size()) >= max_depth)
          throw Error(where, "JSON is nested deeper than " + std::to_string(max_depth) + " levels");
        keys.emplace_back();
        break;
      case json::parse_event_t::object_end:
      case json::parse_event_t::array_end:
        keys.pop_back();
        break;
      case json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second)
          throw Error(where, "JSON key " + quote(parsed.get<std::string>()) + " appears twice");
        break;
      default:
        break;
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& e) {
    // "[json.exception.parse_error.101] parse error at line 1, column 2: ..." without the bracket;
    // the rest may quote the file, so it is made printable.
    std::string reason = e.what();
    if (size_t end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
    const std::string printable = quote(reason);
    throw Error(where, "is not valid JSON: " + printable.substr(1, printable.size() - 2));
  }
}

nlohmann::json read_json_file(const std::string& path, size_t max_bytes) {
  MappedFile file(path);
  if (file.bytes().size() > max_bytes)
    throw Error(path, "is larger than " + std::to_string(max_bytes) +
                          " bytes, too large for a JSON file of a model");
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()},
                    path);
}

}  // namespace nanovllm
