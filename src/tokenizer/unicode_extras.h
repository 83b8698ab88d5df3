// Characters that Hugging Face's regular expressions know (Unicode 16) and PCRE2 10.42 (Unicode 14)
// does not.
#pragma once

#include <string_view>

namespace nanovllm {

// Ranges in PCRE2's class syntax for a general category or a script; empty for most.
const char* newer_characters(std::string_view property);

// Whether the text (valid UTF-8) holds any of them. Most texts do not, and do without the slower
// classes.
bool has_newer_characters(std::string_view text);

// Combining marks that Hugging Face's StripAccents, whose tables are of Unicode 9, leaves in the
// text.
bool is_mark_since_unicode9(char32_t c);
// The same for characters with a decomposition.
bool decomposes_since_unicode9(char32_t c);

}  // namespace nanovllm
