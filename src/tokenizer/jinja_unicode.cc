#include "tokenizer/jinja_unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>

namespace nanovllm::jinja {

namespace {

// Code points whose uppercase is more than one (Unicode's SpecialCasing.txt): code point, upper,
// title. Written by tools/make_case_table.py.
struct SpecialCase {
  char32_t code_point;
  const char32_t *upper, *title;
};
constexpr SpecialCase kSpecialCases[] = {
    {0x00df, U"SS", U"Ss"},
    {0x0149, U"\u02bcN", U"\u02bcN"},
    {0x01f0, U"J\u030c", U"J\u030c"},
    {0x0390, U"\u0399\u0308\u0301", U"\u0399\u0308\u0301"},
    {0x03b0, U"\u03a5\u0308\u0301", U"\u03a5\u0308\u0301"},
    {0x0587, U"\u0535\u0552", U"\u0535\u0582"},
    {0x1e96, U"H\u0331", U"H\u0331"},
    {0x1e97, U"T\u0308", U"T\u0308"},
    {0x1e98, U"W\u030a", U"W\u030a"},
    {0x1e99, U"Y\u030a", U"Y\u030a"},
    {0x1e9a, U"A\u02be", U"A\u02be"},
    {0x1f50, U"\u03a5\u0313", U"\u03a5\u0313"},
    {0x1f52, U"\u03a5\u0313\u0300", U"\u03a5\u0313\u0300"},
    {0x1f54, U"\u03a5\u0313\u0301", U"\u03a5\u0313\u0301"},
    {0x1f56, U"\u03a5\u0313\u0342", U"\u03a5\u0313\u0342"},
    {0x1f80, U"\u1f08\u0399", U"\u1f88"},
    {0x1f81, U"\u1f09\u0399", U"\u1f89"},
    {0x1f82, U"\u1f0a\u0399", U"\u1f8a"},
    {0x1f83, U"\u1f0b\u0399", U"\u1f8b"},
    {0x1f84, U"\u1f0c\u0399", U"\u1f8c"},
    {0x1f85, U"\u1f0d\u0399", U"\u1f8d"},
    {0x1f86, U"\u1f0e\u0399", U"\u1f8e"},
    {0x1f87, U"\u1f0f\u0399", U"\u1f8f"},
    {0x1f88, U"\u1f08\u0399", U"\u1f88"},
    {0x1f89, U"\u1f09\u0399", U"\u1f89"},
    {0x1f8a, U"\u1f0a\u0399", U"\u1f8a"},
    {0x1f8b, U"\u1f0b\u0399", U"\u1f8b"},
    {0x1f8c, U"\u1f0c\u0399", U"\u1f8c"},
    {0x1f8d, U"\u1f0d\u0399", U"\u1f8d"},
    {0x1f8e, U"\u1f0e\u0399", U"\u1f8e"},
    {0x1f8f, U"\u1f0f\u0399", U"\u1f8f"},
    {0x1f90, U"\u1f28\u0399", U"\u1f98"},
    {0x1f91, U"\u1f29\u0399", U"\u1f99"},
    {0x1f92, U"\u1f2a\u0399", U"\u1f9a"},
    {0x1f93, U"\u1f2b\u0399", U"\u1f9b"},
    {0x1f94, U"\u1f2c\u0399", U"\u1f9c"},
    {0x1f95, U"\u1f2d\u0399", U"\u1f9d"},
    {0x1f96, U"\u1f2e\u0399", U"\u1f9e"},
    {0x1f97, U"\u1f2f\u0399", U"\u1f9f"},
    {0x1f98, U"\u1f28\u0399", U"\u1f98"},
    {0x1f99, U"\u1f29\u0399", U"\u1f99"},
    {0x1f9a, U"\u1f2a\u0399", U"\u1f9a"},
    {0x1f9b, U"\u1f2b\u0399", U"\u1f9b"},
    {0x1f9c, U"\u1f2c\u0399", U"\u1f9c"},
    {0x1f9d, U"\u1f2d\u0399", U"\u1f9d"},
    {0x1f9e, U"\u1f2e\u0399", U"\u1f9e"},
    {0x1f9f, U"\u1f2f\u0399", U"\u1f9f"},
    {0x1fa0, U"\u1f68\u0399", U"\u1fa8"},
    {0x1fa1, U"\u1f69\u0399", U"\u1fa9"},
    {0x1fa2, U"\u1f6a\u0399", U"\u1faa"},
    {0x1fa3, U"\u1f6b\u0399", U"\u1fab"},
    {0x1fa4, U"\u1f6c\u0399", U"\u1fac"},
    {0x1fa5, U"\u1f6d\u0399", U"\u1fad"},
    {0x1fa6, U"\u1f6e\u0399", U"\u1fae"},
    {0x1fa7, U"\u1f6f\u0399", U"\u1faf"},
    {0x1fa8, U"\u1f68\u0399", U"\u1fa8"},
    {0x1fa9, U"\u1f69\u0399", U"\u1fa9"},
    {0x1faa, U"\u1f6a\u0399", U"\u1faa"},
    {0x1fab, U"\u1f6b\u0399", U"\u1fab"},
    {0x1fac, U"\u1f6c\u0399", U"\u1fac"},
    {0x1fad, U"\u1f6d\u0399", U"\u1fad"},
    {0x1fae, U"\u1f6e\u0399", U"\u1fae"},
    {0x1faf, U"\u1f6f\u0399", U"\u1faf"},
    {0x1fb2, U"\u1fba\u0399", U"\u1fba\u0345"},
    {0x1fb3, U"\u0391\u0399", U"\u1fbc"},
    {0x1fb4, U"\u0386\u0399", U"\u0386\u0345"},
    {0x1fb6, U"\u0391\u0342", U"\u0391\u0342"},
    {0x1fb7, U"\u0391\u0342\u0399", U"\u0391\u0342\u0345"},
    {0x1fbc, U"\u0391\u0399", U"\u1fbc"},
    {0x1fc2, U"\u1fca\u0399", U"\u1fca\u0345"},
    {0x1fc3, U"\u0397\u0399", U"\u1fcc"},
    {0x1fc4, U"\u0389\u0399", U"\u0389\u0345"},
    {0x1fc6, U"\u0397\u0342", U"\u0397\u0342"},
    {0x1fc7, U"\u0397\u0342\u0399", U"\u0397\u0342\u0345"},
    {0x1fcc, U"\u0397\u0399", U"\u1fcc"},
    {0x1fd2, U"\u0399\u0308\u0300", U"\u0399\u0308\u0300"},
    {0x1fd3, U"\u0399\u0308\u0301", U"\u0399\u0308\u0301"},
    {0x1fd6, U"\u0399\u0342", U"\u0399\u0342"},
    {0x1fd7, U"\u0399\u0308\u0342", U"\u0399\u0308\u0342"},
    {0x1fe2, U"\u03a5\u0308\u0300", U"\u03a5\u0308\u0300"},
    {0x1fe3, U"\u03a5\u0308\u0301", U"\u03a5\u0308\u0301"},
    {0x1fe4, U"\u03a1\u0313", U"\u03a1\u0313"},
    {0x1fe6, U"\u03a5\u0342", U"\u03a5\u0342"},
    {0x1fe7, U"\u03a5\u0308\u0342", U"\u03a5\u0308\u0342"},
    {0x1ff2, U"\u1ffa\u0399", U"\u1ffa\u0345"},
    {0x1ff3, U"\u03a9\u0399", U"\u1ffc"},
    {0x1ff4, U"\u038f\u0399", U"\u038f\u0345"},
    {0x1ff6, U"\u03a9\u0342", U"\u03a9\u0342"},
    {0x1ff7, U"\u03a9\u0342\u0399", U"\u03a9\u0342\u0345"},
    {0x1ffc, U"\u03a9\u0399", U"\u1ffc"},
    {0xfb00, U"FF", U"Ff"},
    {0xfb01, U"FI", U"Fi"},
    {0xfb02, U"FL", U"Fl"},
    {0xfb03, U"FFI", U"Ffi"},
    {0xfb04, U"FFL", U"Ffl"},
    {0xfb05, U"ST", U"St"},
    {0xfb06, U"ST", U"St"},
    {0xfb13, U"\u0544\u0546", U"\u0544\u0576"},
    {0xfb14, U"\u0544\u0535", U"\u0544\u0565"},
    {0xfb15, U"\u0544\u053b", U"\u0544\u056b"},
    {0xfb16, U"\u054e\u0546", U"\u054e\u0576"},
    {0xfb17, U"\u0544\u053d", U"\u0544\u056d"},
};

const SpecialCase* special_case(char32_t c) {
  const auto* it =
      std::lower_bound(std::begin(kSpecialCases), std::end(kSpecialCases), c,
                       [](const SpecialCase& s, char32_t x) { return s.code_point < x; });
  return it != std::end(kSpecialCases) && it->code_point == c ? it : nullptr;
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

bool in_categories(char32_t c, std::initializer_list<utf8proc_category_t> set) {
  const auto cat = category(c);
  return std::find(set.begin(), set.end(), cat) != set.end();
}

char32_t simple_upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t simple_lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

bool is_cased(char32_t c) { return is_lower(c) || is_upper(c) || is_title(c); }

bool is_case_ignorable(char32_t c) {
  static constexpr char32_t kOthers[] = {U'\'', U'.',  U':',  U'·',  U'‘',  U'’', U'․', U'‧', U'︓',
                                         U'﹒', U'﹕', U'＇', U'．', U'：', U'·', U'՟', U'״'};
  return in_categories(c, {UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_ME, UTF8PROC_CATEGORY_CF,
                           UTF8PROC_CATEGORY_LM, UTF8PROC_CATEGORY_SK}) ||
         std::find(std::begin(kOthers), std::end(kOthers), c) != std::end(kOthers);
}

void append_upper(std::u32string& out, char32_t c) {
  if (const auto* s = special_case(c))
    out += s->upper;
  else
    out += simple_upper(c);
}

void append_title(std::u32string& out, char32_t c) {
  if (const auto* s = special_case(c))
    out += s->title;
  else
    out += static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

// i: the position in the whole text; a sigma at the end of a word has its own lowercase.
void append_lower(std::u32string& out, std::u32string_view text, size_t i) {
  const char32_t c = text[i];
  if (c == 0x130) {
    out += U"i\u0307";
  } else if (c == 0x3a3) {
    size_t before = i, after = i + 1;
    while (before > 0 && is_case_ignorable(text[before - 1])) --before;
    while (after < text.size() && is_case_ignorable(text[after])) ++after;
    const bool final =
        before > 0 && is_cased(text[before - 1]) && !(after < text.size() && is_cased(text[after]));
    out += final ? 0x3c2 : 0x3c3;
  } else {
    out += simple_lower(c);
  }
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_line_break(char32_t c) {
  return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

bool is_printable(char32_t c) {
  return c == ' ' ||
         !in_categories(c, {UTF8PROC_CATEGORY_CC, UTF8PROC_CATEGORY_CF, UTF8PROC_CATEGORY_CS,
                            UTF8PROC_CATEGORY_CO, UTF8PROC_CATEGORY_CN, UTF8PROC_CATEGORY_ZL,
                            UTF8PROC_CATEGORY_ZP, UTF8PROC_CATEGORY_ZS});
}

bool is_alpha(char32_t c) {
  return in_categories(c, {UTF8PROC_CATEGORY_LU, UTF8PROC_CATEGORY_LL, UTF8PROC_CATEGORY_LT,
                           UTF8PROC_CATEGORY_LM, UTF8PROC_CATEGORY_LO});
}

bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }

bool is_digit(char32_t c) {
  // Superscripts, subscripts and circled digits are digits but not decimals.
  return is_decimal(c) || c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247c) ||
         (c >= 0x2488 && c <= 0x2490) || c == 0x24ea || (c >= 0x24f5 && c <= 0x24fd) ||
         c == 0x24ff || (c >= 0x2776 && c <= 0x277e) || (c >= 0x2780 && c <= 0x2788) ||
         (c >= 0x278a && c <= 0x2792);
}

bool is_numeric(char32_t c) {
  // Ideographs that stand for numbers are numeric too; the common ones are listed.
  static constexpr std::u32string_view kIdeographs =
      U"〇一二三四五六七八九十百千万億兆壹贰叁肆伍陆柒捌玖拾零两亿萬";
  return in_categories(c, {UTF8PROC_CATEGORY_ND, UTF8PROC_CATEGORY_NL, UTF8PROC_CATEGORY_NO}) ||
         kIdeographs.find(c) != kIdeographs.npos;
}

bool is_word(char32_t c) { return c == '_' || is_alpha(c) || is_numeric(c); }

bool is_lower(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z';
  // Other_Lowercase: modifier letters, ª, º, small Roman numerals, circled small letters.
  return category(c) == UTF8PROC_CATEGORY_LL || c == 0xaa || c == 0xba ||
         (c >= 0x2b0 && c <= 0x2b8) || c == 0x2c0 || c == 0x2c1 || (c >= 0x2e0 && c <= 0x2e4) ||
         c == 0x345 || c == 0x37a || (c >= 0x1d2c && c <= 0x1d6a) || c == 0x1d78 ||
         (c >= 0x1d9b && c <= 0x1dbf) || c == 0x2071 || c == 0x207f ||
         (c >= 0x2090 && c <= 0x209c) || (c >= 0x2170 && c <= 0x217f) ||
         (c >= 0x24d0 && c <= 0x24e9);
}

bool is_upper(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z';
  return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216f) ||
         (c >= 0x24b6 && c <= 0x24cf) || (c >= 0x1f130 && c <= 0x1f149) ||
         (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }

bool is_identifier(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = decode_at(text, i);
    const bool start = c == '_' || is_alpha(c) || category(c) == UTF8PROC_CATEGORY_NL;
    if (!start &&
        (first || !(is_decimal(c) || in_categories(c, {UTF8PROC_CATEGORY_MN, UTF8PROC_CATEGORY_MC,
                                                       UTF8PROC_CATEGORY_PC}))))
      return false;
  }
  return !text.empty();
}

std::string upper(std::string_view text) {
  std::u32string out;
  for (const char32_t c : to_code_points(text)) append_upper(out, c);
  return to_utf8(out);
}

std::string lower(std::string_view text) {
  const std::u32string in = to_code_points(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) append_lower(out, in, i);
  return to_utf8(out);
}

std::string title(std::string_view text) {
  const std::u32string in = to_code_points(text);
  std::u32string out;
  bool in_word = false;
  for (size_t i = 0; i < in.size(); ++i) {
    if (in_word)
      append_lower(out, in, i);
    else
      append_title(out, in[i]);
    in_word = is_cased(in[i]);
  }
  return to_utf8(out);
}

std::string capitalize(std::string_view text) {
  const std::u32string in = to_code_points(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (i == 0)
      append_title(out, in[i]);
    else
      append_lower(out, in, i);
  }
  return to_utf8(out);
}

std::string swapcase(std::string_view text) {
  const std::u32string in = to_code_points(text);
  std::u32string out;
  for (size_t i = 0; i < in.size(); ++i) {
    if (is_upper(in[i]))
      append_lower(out, in, i);
    else if (is_lower(in[i]))
      append_upper(out, in[i]);
    else
      out += in[i];
  }
  return to_utf8(out);
}

std::string casefold(std::string_view text) {
  utf8proc_uint8_t* folded = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &folded, UTF8PROC_CASEFOLD);
  if (size < 0) return lower(text);
  std::string out(reinterpret_cast<const char*>(folded), static_cast<size_t>(size));
  std::free(folded);
  return out;
}

std::string_view strip(std::string_view text, int sides, const std::u32string* chars) {
  const auto dropped = [&](char32_t c) {
    return chars ? chars->find(c) != chars->npos : is_space(c);
  };
  if (sides & 1) {
    size_t i = 0;
    while (i < text.size()) {
      size_t next = i;
      if (!dropped(decode_at(text, next))) break;
      i = next;
    }
    text.remove_prefix(i);
  }
  if (sides & 2) {
    size_t end = text.size();
    while (end > 0) {
      size_t start = end - 1;
      while (start > 0 && end - start < 4 &&
             (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80)
        --start;
      size_t next = start;
      const char32_t c = decode_at(text, next);
      if (next != end) start = end - 1;  // a stray byte
      if (!dropped(next == end ? c : 0xfffd)) break;
      end = start;
    }
    text = text.substr(0, end);
  }
  return text;
}

}  // namespace nanovllm::jinja
