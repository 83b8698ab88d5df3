// UTF-8 to code points and back.
#include <algorithm>

#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

char32_t decode_at(std::string_view text, size_t& position) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(position);
  if (lead < 0x80) return text[position++];
  const int extra = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc2 ? 1 : 0;
  if (extra == 0 || lead > 0xf4 || text.size() - position <= static_cast<size_t>(extra)) {
    ++position;
    return 0xfffd;
  }
  char32_t c = lead & (0x3f >> extra);
  for (int k = 1; k <= extra; ++k) {
    if ((byte(position + k) & 0xc0) != 0x80) {
      ++position;
      return 0xfffd;
    }
    c = (c << 6) | (byte(position + k) & 0x3f);
  }
  if ((extra == 2 && c < 0x800) || (extra == 3 && (c < 0x10000 || c > 0x10ffff))) {
    ++position;
    return 0xfffd;
  }
  position += extra + 1;
  return c;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xc0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xe0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  } else {
    out += static_cast<char>(0xf0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3f));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3f));
    out += static_cast<char>(0x80 | (c & 0x3f));
  }
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<signed char>(c) >= 0; });
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_at(text, i);
    if ((c >= 0xd800 && c < 0xe000) || (c == 0xfffd && i - start == 1)) return false;
  }
  return true;
}

int64_t num_code_points(std::string_view text) {
  if (is_ascii(text)) return static_cast<int64_t>(text.size());
  int64_t n = 0;
  for (size_t i = 0; i < text.size(); ++n) decode_at(text, i);
  return n;
}

size_t byte_offset(std::string_view text, int64_t code_points) {
  size_t i = 0;
  for (; code_points > 0 && i < text.size(); --code_points) decode_at(text, i);
  return i;
}

std::u32string to_code_points(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) out += decode_at(text, i);
  return out;
}

std::string to_utf8(std::u32string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char32_t c : text) append_utf8(out, c);
  return out;
}

}  // namespace nanovllm::jinja
