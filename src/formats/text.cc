#include "formats/text.h"

namespace nanovllm {
namespace {

// Bytes of the UTF-8 character that `text` begins with; 0 if it begins with none, or with a control
// character.
size_t printable_length(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return lead >= 0x20 && lead != 0x7f ? 1 : 0;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  unsigned code = lead & (0x7f >> length);
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  // Below: too long an encoding. C1 control characters end at U+009F.
  const unsigned least = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0xa0;
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  const bool valid = lead >= 0xc2 && lead < 0xf5 && code >= least && code <= 0x10ffff && !surrogate;
  return valid ? length : 0;
}

}  // namespace

std::string quote(std::string_view text) {
  constexpr size_t kMaxBytes = 120;
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "'";
  for (size_t i = 0; i < text.size();) {
    if (i >= kMaxBytes) return out + "...'";
    const size_t length = printable_length(text.substr(i));
    if (length == 0) {
      const unsigned char byte = static_cast<unsigned char>(text[i++]);
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      out += text.substr(i, length);
      i += length;
    }
  }
  return out + "'";
}

}  // namespace nanovllm
