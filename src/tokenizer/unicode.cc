#include "tokenizer/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "tokenizer/unicode_extras.h"

namespace nanovllm {

namespace {

uint8_t byte_at(std::string_view text, size_t i) { return static_cast<uint8_t>(text[i]); }

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

// The tables behind Hugging Face's normal forms are of Unicode 9: what came later is left alone, as
// there.
int combining_class(char32_t c) {
  if (is_mark_since_unicode9(c)) return 0;
  return utf8proc_get_property(static_cast<utf8proc_int32_t>(c))->combining_class;
}

// Characters that NFC leaves alone whatever stands around them, as far as a cheap test can tell:
// everything below the first combining mark, and the unified ideographs.
bool is_nfc_inert(char32_t c) { return c < 0x300 || (c >= 0x4E00 && c <= 0x9FFF); }

// Appends the normal form of text, which holds whole runs: nothing outside composes with its ends.
void normalize_run(std::string_view text, NormalForm form, std::string& out) {
  const bool compat = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const bool compose = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE |
                                                      (compat ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> buffer;
  buffer.reserve(text.size());
  utf8proc_int32_t parts[32];  // the longest decomposition has 18 code points
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = take_code_point(text, pos);
    int boundclass = 0;
    if (decomposes_since_unicode9(c)) {
      buffer.push_back(static_cast<utf8proc_int32_t>(c));
      continue;
    }
    const auto n =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 32, options, &boundclass);
    if (n < 0 || n > 32) {
      buffer.push_back(static_cast<utf8proc_int32_t>(c));
    } else {
      buffer.insert(buffer.end(), parts, parts + n);
    }
  }
  // Canonical ordering: marks between two starters by combining class. A stable sort, because
  // utf8proc's own ordering is quadratic in the number of marks.
  for (size_t i = 0; i < buffer.size();) {
    if (combining_class(static_cast<char32_t>(buffer[i])) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < buffer.size() && combining_class(static_cast<char32_t>(buffer[end])) != 0) ++end;
    std::stable_sort(buffer.begin() + static_cast<ptrdiff_t>(i),
                     buffer.begin() + static_cast<ptrdiff_t>(end),
                     [](utf8proc_int32_t a, utf8proc_int32_t b) {
                       return combining_class(static_cast<char32_t>(a)) <
                              combining_class(static_cast<char32_t>(b));
                     });
    i = end;
  }
  auto length = static_cast<utf8proc_ssize_t>(buffer.size());
  if (compose) {
    length = utf8proc_normalize_utf32(
        buffer.data(), length, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  }
  for (utf8proc_ssize_t i = 0; i < length; ++i)
    append_utf8(out, static_cast<char32_t>(buffer[static_cast<size_t>(i)]));
}

}  // namespace

Utf8Unit next_utf8(std::string_view text) {
  const uint8_t lead = byte_at(text, 0);
  if (lead < 0x80) return {lead, 1, true, false};
  // The second byte's range depends on the lead byte (no overlong forms, surrogates or values above
  // U+10FFFF).
  int need = 0;
  uint8_t low = 0x80, high = 0xBF;
  char32_t c = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    need = 1;
    c = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    need = 2;
    c = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    need = 3;
    c = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {0xFFFD, 1, false, false};
  }
  for (int i = 1; i <= need; ++i) {
    if (static_cast<size_t>(i) >= text.size()) return {0xFFFD, i, false, true};
    const uint8_t b = byte_at(text, static_cast<size_t>(i));
    if (b < low || b > high) return {0xFFFD, i, false, false};
    c = (c << 6) | (b & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {c, need + 1, true, false};
}

bool is_valid_utf8(std::string_view text) {
  for (size_t pos = 0; pos < text.size();) {
    if (byte_at(text, pos) < 0x80) {
      ++pos;
      continue;
    }
    const Utf8Unit unit = next_utf8(text.substr(pos));
    if (!unit.valid) return false;
    pos += static_cast<size_t>(unit.length);
  }
  return true;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = next_utf8(text.substr(pos));
    if (unit.valid) {
      out.append(text.substr(pos, static_cast<size_t>(unit.length)));
    } else {
      out.append("\xEF\xBF\xBD");
    }
    pos += static_cast<size_t>(unit.length);
  }
  return out;
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out.push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out.push_back(static_cast<char>(0xC0 | (c >> 6)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | (c >> 12)));
    out.push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | (c >> 18)));
    out.push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3F)));
    out.push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

int utf8_length(char lead) {
  const auto b = static_cast<uint8_t>(lead);
  return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

char32_t take_code_point(std::string_view text, size_t& pos) {
  const uint8_t lead = byte_at(text, pos);
  if (lead < 0x80) {
    ++pos;
    return lead;
  }
  const Utf8Unit unit = next_utf8(text.substr(pos));
  pos += static_cast<size_t>(unit.length);
  return unit.code_point;
}

bool is_whitespace(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

bool is_ascii_punctuation(char32_t c) {
  return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
         (c >= 123 && c <= 126);
}

bool is_word(char32_t c) {
  if (c < 0x80)
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  const auto k = category(c);
  if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) return true;
  if (is_combining_mark(c) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL ||
      k == UTF8PROC_CATEGORY_PC) {
    return true;
  }
  // Other_Alphabetic symbols (circled and squared letters) and Join_Control.
  return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C ||
         c == 0x200D;
}

bool is_combining_mark(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

bool is_nonspacing_mark(char32_t c) { return category(c) == UTF8PROC_CATEGORY_MN; }

bool is_control(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CN ||
         k == UTF8PROC_CATEGORY_CO || k == UTF8PROC_CATEGORY_CS;
}

std::string normalize(std::string_view text, NormalForm form) {
  std::string out;
  out.reserve(text.size());
  // Only the runs that can change go through the tables; a run takes the character before it along,
  // because a mark may compose with it.
  for (size_t pos = 0; pos < text.size();) {
    size_t last = pos, scan = pos;  // last: start of the last character seen
    while (scan < text.size()) {
      size_t next = scan;
      const char32_t c = take_code_point(text, next);
      if (form == NormalForm::kNfc ? !is_nfc_inert(c) : c >= 0x80) break;
      last = scan;
      scan = next;
    }
    if (scan == text.size()) {
      out.append(text.substr(pos));
      break;
    }
    out.append(text.substr(pos, last - pos));
    size_t end = scan;
    while (end < text.size()) {
      size_t next = end;
      const char32_t c = take_code_point(text, next);
      if (form == NormalForm::kNfc ? is_nfc_inert(c) : c < 0x80) break;
      end = next;
    }
    normalize_run(text.substr(last, end - last), form, out);
    pos = end;
  }
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = take_code_point(text, pos);
    if (c == 0x130) {  // the one character whose lower case is two
      out.append("i\xCC\x87");
    } else {
      append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
    }
  }
  return out;
}

}  // namespace nanovllm
