// What a JSON schema asks for and xgrammar would leave out without a word: refused, since whoever
// wrote it counts on it.
#pragma once

#include <string>

namespace nanovllm {

// Why the schema (its text) is refused; "" if xgrammar is to read it. Not a validator: what it
// cannot make sense of is left for xgrammar to complain about.
std::string unsupported_in_schema(const std::string& schema);

// The same of every schema in a structural tag.
std::string unsupported_in_structural_tag(const std::string& tag);

}  // namespace nanovllm
