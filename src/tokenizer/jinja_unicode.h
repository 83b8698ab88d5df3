// Text by code points, as Python's str sees it. Strings here are UTF-8; a stray byte counts as one
// U+FFFD.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nanovllm::jinja {

char32_t decode_at(std::string_view text,
                   size_t& position);                     // reads one code point and moves past it
void append_utf8(std::string& out, char32_t code_point);  // surrogates too, as three bytes
bool is_ascii(std::string_view text);
bool is_valid_utf8(std::string_view text);
int64_t num_code_points(std::string_view text);
size_t byte_offset(std::string_view text, int64_t code_points);  // clamped to the end
std::u32string to_code_points(std::string_view text);
std::string to_utf8(std::u32string_view text);

bool is_space(char32_t c);  // str.isspace, and \s of a Python regular expression
bool is_line_break(char32_t c);
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_word(char32_t c);  // \w
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_identifier(std::string_view text);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);       // str.title
std::string capitalize(std::string_view text);  // str.capitalize
std::string swapcase(std::string_view text);
std::string casefold(std::string_view text);

// sides: 1 left, 2 right, 3 both. chars empty: whitespace.
std::string_view strip(std::string_view text, int sides, const std::u32string* chars = nullptr);

}  // namespace nanovllm::jinja
