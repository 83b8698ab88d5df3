// Reading JSON that a client sent: untrusted, so size, depth and key counts are capped and every
// type is checked.
//
// Fields reads the members of one object by name, and refuses by name what nobody has read. A
// member that is null counts as left out, as in vLLM. Every complaint is an InvalidArgument whose
// where() is the member's name.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "nanovllm/error.h"

namespace nanovllm::openai {

// Key order is kept: chat templates print tools and messages as they came.
using Json = nlohmann::ordered_json;

constexpr size_t kMaxBodyBytes = size_t{64} << 20;

// Throws InvalidArgument("body", ...): not JSON, not UTF-8, too large, nested deeper than 100, an
// object with more than 10,000 members (lookups in an ordered object are linear), more than
// 2,000,000 values in all (each costs tens of bytes where its text may be two).
Json parse_body(std::string_view text, size_t max_bytes = kMaxBodyBytes);

// Compact JSON on one line. Bytes that are not UTF-8 become U+FFFD.
std::string dump(const Json& value);

const char* type_name(const Json& value);  // "a string", "an integer", ...

// Checks one value of a list or map; `name` is the member it belongs to.
int64_t to_integer(const std::string& name, const Json& value, int64_t min, int64_t max);

class Fields {
 public:
  // `where` names the object in the complaint that it is none.
  Fields(const Json& object, const std::string& where);

  const Json* get(const char* name) const;  // null if absent or null
  std::optional<bool> boolean(const char* name) const;
  std::optional<int64_t> integer(const char* name) const;  // 5 and 5.0
  std::optional<double> number(const char* name) const;
  std::optional<std::string> string(const char* name) const;
  const Json* array(const char* name) const;
  const Json* object(const char* name) const;

  // Refuses the members that no call above has asked for.
  // within: what the complaint's name begins with, "" or "stream_options.".
  void refuse_others(const std::string& within = "") const;

 private:
  const Json& object_;
  mutable std::set<std::string, std::less<>> asked_for_;
};

}  // namespace nanovllm::openai
