#include "formats/text.h"

namespace nanovllm {

std::string quote(std::string_view text) {
  constexpr size_t kMaxBytes = 120;
  constexpr char kHex[] = "0123456789abcdef";
  const bool cut = text.size() > kMaxBytes;
  std::string out = "'";
  for (char c : text.substr(0, kMaxBytes)) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      out += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      out += c;
    }
  }
  return out + (cut ? "...'" : "'");
}

}  // namespace nanovllm
