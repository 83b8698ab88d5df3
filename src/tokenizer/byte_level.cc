#include "tokenizer/byte_level.h"

#include <array>

#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

constexpr bool stands_for_itself(int b) {
  return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || (b >= 0xAE && b <= 0xFF);
}

struct Alphabet {
  std::array<char32_t, 256> to_char{};
  std::array<int16_t, 324> to_byte{};  // U+0143 is the last character
};

constexpr Alphabet make_alphabet() {
  Alphabet a;
  for (auto& b : a.to_byte) b = -1;
  char32_t next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const char32_t c = stands_for_itself(b) ? static_cast<char32_t>(b) : next++;
    a.to_char[static_cast<size_t>(b)] = c;
    a.to_byte[c] = static_cast<int16_t>(b);
  }
  return a;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

char32_t byte_to_char(uint8_t byte) { return kAlphabet.to_char[byte]; }

std::optional<uint8_t> char_to_byte(char32_t c) {
  if (c >= kAlphabet.to_byte.size() || kAlphabet.to_byte[c] < 0) return std::nullopt;
  return static_cast<uint8_t>(kAlphabet.to_byte[c]);
}

std::string bytes_to_chars(std::string_view bytes) {
  std::string out;
  for (const char b : bytes) append_utf8(out, byte_to_char(static_cast<uint8_t>(b)));
  return out;
}

std::optional<std::string> chars_to_bytes(std::string_view text) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const auto byte = char_to_byte(take_code_point(text, pos));
    if (!byte) return std::nullopt;
    out.push_back(static_cast<char>(*byte));
  }
  return out;
}

}  // namespace nanovllm
