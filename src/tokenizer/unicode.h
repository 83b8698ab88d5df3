// Unicode as the tokenizers need it: UTF-8, character classes and normal forms, equal to those that
// Hugging Face's `tokenizers` uses. Stateless; any thread may call anything here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nanovllm {

// Bytes that one code point or one broken sequence takes at the front of `text`.
struct Utf8Unit {
  char32_t code_point = 0;  // U+FFFD if broken
  int length =
      0;  // 1 to 4; a broken sequence is its maximal subpart, as in Python's errors="replace"
  bool valid = false;
  bool truncated = false;  // broken only because `text` ends: more bytes could complete it
};
Utf8Unit next_utf8(std::string_view text);  // text must not be empty

bool is_valid_utf8(std::string_view text);
std::string to_valid_utf8(
    std::string_view text);  // as Python's bytes.decode("utf-8", errors="replace")
void append_utf8(std::string& out, char32_t code_point);

// Decodes the code point at text[pos] of valid UTF-8 and moves pos behind it.
char32_t take_code_point(std::string_view text, size_t& pos);
// Byte length of the character that a lead byte of valid UTF-8 opens.
int utf8_length(char lead);

bool is_whitespace(char32_t c);   // White_Space
bool is_numeric(char32_t c);      // general categories Nd, Nl, No
bool is_punctuation(char32_t c);  // general categories P*
bool is_ascii_punctuation(char32_t c);
bool is_word(char32_t c);             // \w of Rust's regex: Alphabetic, M, Nd, Pc, Join_Control
bool is_combining_mark(char32_t c);   // general categories M*
bool is_nonspacing_mark(char32_t c);  // general category Mn
bool is_control(char32_t c);          // general categories C*

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string normalize(std::string_view valid_utf8, NormalForm form);  // O(n log n)
std::string to_lower(std::string_view valid_utf8);  // full mapping, character by character

}  // namespace nanovllm
