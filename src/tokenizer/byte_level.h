// GPT-2's alphabet for bytes: every byte is written as one printable character, so that a
// vocabulary of strings can hold any bytes. Printable Latin-1 stands for itself; the other 68 bytes
// are U+0100 onward.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nanovllm {

char32_t byte_to_char(uint8_t byte);
std::optional<uint8_t> char_to_byte(char32_t c);

std::string bytes_to_chars(std::string_view bytes);
// The bytes that a string of the alphabet stands for; nothing if some character is outside it.
std::optional<std::string> chars_to_bytes(std::string_view valid_utf8);

}  // namespace nanovllm
