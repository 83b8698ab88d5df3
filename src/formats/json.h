// JSON from untrusted files: size and depth are capped, a key given twice is refused, errors name
// the file.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace nanovllm {

// `where` names the file (and the part of it) in the Error. Depth counts nested objects and arrays.
nlohmann::json parse_json(std::string_view text, const std::string& where, int max_depth = 64);

// The whole of a file of at most max_bytes.
nlohmann::json read_json_file(const std::string& path, size_t max_bytes = 64 << 20);

}  // namespace nanovllm
