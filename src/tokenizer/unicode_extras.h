// Characters that Hugging Face's regular expressions know (Unicode 16) and PCRE2 10.42 (Unicode 14) does not.
#pragma once

#include <string_view>

namespace nanovllm {

// Ranges in PCRE2's class syntax for a general category or a script; empty for most.
const char* newer_characters(std::string_view property);

}  // namespace nanovllm
