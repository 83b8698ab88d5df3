// The translation of Oniguruma's Ruby syntax, in which tokenizer.json patterns are written, into
// PCRE2's. The two agree on most of it; what differs: nested and intersected classes, \s \w \d \h
// \v, script names, the option letter m, and quantifiers such as {2}+ (a repeated repetition, not a
// possessive one).
#include <cstdio>
#include <optional>
#include <vector>

#include "nanovllm/error.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unicode_extras.h"

namespace nanovllm {

namespace {

constexpr int kMaxDepth = 50;
constexpr char kSpaces[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{"
    "205f}\\x{3000}";

std::string hex_escape(char32_t c) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "\\x{%x}", static_cast<unsigned>(c));
  return buffer;
}

// A set of characters as PCRE2 can write it: alternatives, each a class or something longer that
// takes one character.
struct CharSet {
  std::vector<std::string> alternatives;  // most sets have one

  std::string atom() const {
    if (alternatives.size() == 1) return alternatives[0];
    std::string out = "(?:";
    for (size_t i = 0; i < alternatives.size(); ++i) out += (i == 0 ? "" : "|") + alternatives[i];
    return out + ")";
  }
};

struct GeneralCategory {
  const char *short_name, *long_name;
};
constexpr GeneralCategory kCategories[] = {{"L", "Letter"},
                                           {"Lu", "Uppercase_Letter"},
                                           {"Ll", "Lowercase_Letter"},
                                           {"Lt", "Titlecase_Letter"},
                                           {"Lm", "Modifier_Letter"},
                                           {"Lo", "Other_Letter"},
                                           {"M", "Mark"},
                                           {"Mn", "Nonspacing_Mark"},
                                           {"Mc", "Spacing_Mark"},
                                           {"Me", "Enclosing_Mark"},
                                           {"N", "Number"},
                                           {"Nd", "Decimal_Number"},
                                           {"Nl", "Letter_Number"},
                                           {"No", "Other_Number"},
                                           {"P", "Punctuation"},
                                           {"Pc", "Connector_Punctuation"},
                                           {"Pd", "Dash_Punctuation"},
                                           {"Ps", "Open_Punctuation"},
                                           {"Pe", "Close_Punctuation"},
                                           {"Pi", "Initial_Punctuation"},
                                           {"Pf", "Final_Punctuation"},
                                           {"Po", "Other_Punctuation"},
                                           {"S", "Symbol"},
                                           {"Sm", "Math_Symbol"},
                                           {"Sc", "Currency_Symbol"},
                                           {"Sk", "Modifier_Symbol"},
                                           {"So", "Other_Symbol"},
                                           {"Z", "Separator"},
                                           {"Zs", "Space_Separator"},
                                           {"Zl", "Line_Separator"},
                                           {"Zp", "Paragraph_Separator"},
                                           {"C", "Other"},
                                           {"Cc", "Control"},
                                           {"Cf", "Format"},
                                           {"Cn", "Unassigned"},
                                           {"Co", "Private_Use"},
                                           {"Cs", "Surrogate"}};

class Translator {
 public:
  Translator(std::string_view in, const std::string& where, bool newer)
      : in_(in), where_(where), newer_(newer) {}

  std::string run() {
    while (pos_ < in_.size()) step();
    return out_;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(where_, "the regular expression uses " + what +
                            ", which is not supported: " + std::string(in_));
  }
  std::string extras(std::string_view property) const {
    return newer_ ? newer_characters(property) : "";
  }
  bool at(std::string_view text) const { return in_.substr(pos_, text.size()) == text; }
  bool done() const { return pos_ >= in_.size(); }
  char peek() const { return done() ? '\0' : in_[pos_]; }
  char32_t take() { return take_code_point(in_, pos_); }

  void atom(const std::string& text) {
    atom_ = out_.size();
    out_ += text;
  }

  void step() {
    const char c = peek();
    switch (c) {
      case '\\':
        return escape_outside();
      case '[':
        ++pos_;
        return atom(char_class(0).atom());
      case '(':
        return open_group();
      case ')':
        if (groups_.empty()) refuse("an unmatched parenthesis");
        out_ += ')';
        ++pos_;
        atom_ = groups_.back();
        groups_.pop_back();
        return;
      case '{':
        return interval();
      case '?':
      case '*':
      case '+':
      case '|':
      case '^':
      case '$':
      case '.':
        if (c == '^' || c == '$' || c == '.') atom_ = out_.size();
        out_ += c;
        ++pos_;
        return;
      default:
        return atom(hex_escape(take()));
    }
  }

  void open_group() {
    const size_t start = out_.size();
    if (groups_.size() >= kMaxDepth) refuse("deep nesting");
    ++pos_;
    if (peek() != '?') {
      groups_.push_back(start);
      out_ += '(';
      return;
    }
    for (const char* head : {"?:", "?=", "?!", "?<=", "?<!", "?>"}) {
      if (!at(head)) continue;
      groups_.push_back(start);
      out_ += std::string("(") + head;
      pos_ += std::char_traits<char>::length(head);
      return;
    }
    if (at("?<")) {
      const size_t close = in_.find('>', pos_);
      if (close == std::string_view::npos) refuse("an unclosed group name");
      groups_.push_back(start);
      out_ += "(" + std::string(in_.substr(pos_, close + 1 - pos_));
      pos_ = close + 1;
      return;
    }
    // (?im-im) and (?im-im: ... ); m means "dot matches newline".
    std::string options = "(?";
    for (++pos_; !done(); ++pos_) {
      const char c = peek();
      if (c == 'i' || c == '-') {
        options += c;
      } else if (c == 'm') {
        options += 's';
      } else if (c == ':' || c == ')') {
        options += c;
        ++pos_;
        if (c == ':') groups_.push_back(start);
        out_ += options;
        return;
      } else {
        break;
      }
    }
    refuse("a group of the kind (?" + std::string(in_.substr(pos_, 1)) + "...)");
  }

  // {n}, {n,}, {,n}, {n,m}; anything else is a literal brace.
  void interval() {
    size_t p = pos_ + 1;
    std::string low, high;
    bool comma = false;
    while (p < in_.size() && in_[p] >= '0' && in_[p] <= '9') low += in_[p++];
    if (p < in_.size() && in_[p] == ',') {
      comma = true;
      ++p;
      while (p < in_.size() && in_[p] >= '0' && in_[p] <= '9') high += in_[p++];
    }
    if (p >= in_.size() || in_[p] != '}' || (low.empty() && high.empty())) {
      ++pos_;
      return atom("\\{");
    }
    pos_ = p + 1;
    out_ += "{" + (low.empty() ? "0" : low) + (comma ? "," + high : "") + "}";
    const bool repeated = peek() == '+' || peek() == '*' || (peek() == '?' && !comma);
    if (repeated) {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
  }

  std::string until_brace() {
    const size_t close = in_.find('}', pos_);
    if (peek() != '{' || close == std::string_view::npos) refuse("an escape without its braces");
    const std::string name(in_.substr(pos_ + 1, close - pos_ - 1));
    pos_ = close + 1;
    return name;
  }

  // The inside of a class that holds \p{name}, or \P{name} if negated.
  std::string property(bool negated) {
    std::string name = until_brace();
    if (!name.empty() && name[0] == '^') {
      negated = !negated;
      name.erase(0, 1);
    }
    const std::string sign = negated ? "^" : "";
    for (const auto& category : kCategories) {
      if (name != category.short_name && name != category.long_name) continue;
      return sign + "\\p{" + category.short_name + "}" + extras(category.short_name);
    }
    for (const char c : name) {
      if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'))
        refuse("\\p{" + name + "}");
    }
    for (const char* binary : {"Any", "Alphabetic", "Uppercase", "Lowercase", "ASCII", "Emoji",
                               "Extended_Pictographic", "Ideographic"}) {
      if (name == binary) return sign + "\\p{" + name + "}";
    }
    if (name == "White_Space" || name == "Space") return sign + kSpaces;
    if (name == "Alpha") return sign + "\\p{Alphabetic}";
    if (name == "Digit") return sign + "\\p{Nd}" + extras("Nd");
    return sign + "\\p{sc:" + name + "}" + extras(name);
  }

  // An escape that stands for a set, or nothing. pos_ is behind the backslash.
  std::optional<std::string> set_escape() {
    const char c = peek();
    const std::string word =
        std::string("\\p{L}\\p{M}\\p{N}\\p{Pc}") + extras("L") + extras("M") + extras("N");
    switch (c) {
      case 'p':
      case 'P':
        ++pos_;
        return property(c == 'P');
      case 's':
        ++pos_;
        return kSpaces;
      case 'S':
        ++pos_;
        return std::string("^") + kSpaces;
      case 'd':
        ++pos_;
        return "\\p{Nd}" + extras("Nd");
      case 'D':
        ++pos_;
        return "^\\p{Nd}" + extras("Nd");
      case 'w':
        ++pos_;
        return word;
      case 'W':
        ++pos_;
        return "^" + word;
      case 'h':
        ++pos_;
        return "0-9a-fA-F";
      case 'H':
        ++pos_;
        return "^0-9a-fA-F";
      default:
        return std::nullopt;
    }
  }

  // An escape that stands for one character. pos_ is behind the backslash.
  char32_t char_escape() {
    if (done()) refuse("a backslash at the end");
    const char32_t c = take();
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'a':
        return '\a';
      case 'e':
        return 0x1B;
      case 'x':
        if (peek() == '{') return hex(until_brace());
        return hex(take_hex(2));
      case 'u':
        return hex(take_hex(4));
      default:
        break;
    }
    if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
      refuse("the escape \\" + std::string(1, static_cast<char>(c)));
    }
    return c;
  }
  std::string take_hex(size_t n) {
    std::string digits(in_.substr(pos_, n));
    pos_ = std::min(in_.size(), pos_ + n);
    return digits;
  }
  char32_t hex(const std::string& digits) const {
    if (digits.empty() || digits.size() > 6) refuse("a bad character number");
    char32_t value = 0;
    for (const char c : digits) {
      const int d = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
      if (d < 0) refuse("a bad character number");
      value = value * 16 + static_cast<char32_t>(d);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF)) refuse("a bad character number");
    return value;
  }

  void escape_outside() {
    ++pos_;
    const char c = peek();
    if (c != '\0' && std::string_view("AzZbBGRXK").find(c) != std::string_view::npos) {
      ++pos_;
      return atom(std::string("\\") + c);
    }
    if (c >= '1' && c <= '9') {
      ++pos_;
      return atom(std::string("\\g{") + c + "}");
    }
    if (const auto set = set_escape()) return atom("[" + *set + "]");
    atom(hex_escape(char_escape()));
  }

  // pos_ is behind the opening bracket; ends behind the closing one.
  CharSet char_class(int depth) {
    if (depth > kMaxDepth) refuse("deep nesting");
    const bool negated = peek() == '^';
    if (negated) ++pos_;
    std::vector<std::string> intersected;  // atoms that must match too
    CharSet set;
    std::string plain;  // what one class can hold
    bool first = true;
    const auto close_operand = [&] {
      if (!plain.empty()) set.alternatives.push_back("[" + plain + "]");
      plain.clear();
    };
    while (true) {
      if (done()) refuse("a class without its end");
      if (peek() == ']' && !first) break;
      first = false;
      if (at("&&")) {
        pos_ += 2;
        close_operand();
        if (set.alternatives.empty()) refuse("an empty intersection");
        intersected.push_back(set.atom());
        set.alternatives.clear();
        continue;
      }
      if (at("[:")) {
        const size_t close = in_.find(":]", pos_);
        if (close != std::string_view::npos) {
          plain += in_.substr(pos_, close + 2 - pos_);
          pos_ = close + 2;
          continue;
        }
      }
      if (peek() == '[') {
        ++pos_;
        const CharSet nested = char_class(depth + 1);
        set.alternatives.insert(set.alternatives.end(), nested.alternatives.begin(),
                                nested.alternatives.end());
        continue;
      }
      if (peek() == '\\') {
        ++pos_;
        if (const auto escaped = set_escape()) {
          if ((*escaped)[0] == '^') {
            set.alternatives.push_back("[" + *escaped + "]");
          } else {
            plain += *escaped;
          }
          continue;
        }
        --pos_;
      }
      const char32_t low = class_char();
      plain += hex_escape(low);
      if (peek() == '-' && pos_ + 1 < in_.size() && in_[pos_ + 1] != ']' && in_[pos_ + 1] != '[') {
        ++pos_;
        if (at("\\p") || at("\\P") || at("\\s") || at("\\S") || at("\\d") || at("\\D") ||
            at("\\w") || at("\\W")) {
          plain += hex_escape('-');
          continue;
        }
        const char32_t high = class_char();
        if (high < low) refuse("an empty range");
        plain += "-" + hex_escape(high);
      }
    }
    ++pos_;
    close_operand();
    if (set.alternatives.empty()) refuse("an empty class");
    return combine(negated, set, intersected);
  }

  char32_t class_char() {
    if (peek() != '\\') return take();
    ++pos_;
    if (peek() == 'b') {
      ++pos_;
      return 8;
    }
    return char_escape();
  }

  // One class where that is enough, lookaheads before "any character" where it is not.
  CharSet combine(bool negated, const CharSet& set, const std::vector<std::string>& intersected) {
    if (intersected.empty() && !negated) return set;
    if (intersected.empty() && set.alternatives.size() == 1 && set.alternatives[0][0] == '[') {
      const std::string& only = set.alternatives[0];
      return {{only[1] == '^' ? "[" + only.substr(2) : "[^" + only.substr(1)}};
    }
    std::string all;
    for (const auto& operand : intersected) all += "(?=" + operand + ")";
    all += set.atom();
    return {{negated ? "(?:(?!" + all + ")(?s:.))" : "(?:" + all + ")"}};
  }

  std::string_view in_;
  const std::string& where_;
  bool newer_;
  std::string out_;
  size_t pos_ = 0;
  size_t atom_ = 0;             // where the last atom starts in out_
  std::vector<size_t> groups_;  // where the open groups start in out_
};

}  // namespace

std::string translate_pattern(std::string_view pattern, const std::string& where, bool newer) {
  return Translator(pattern, where, newer).run();
}

}  // namespace nanovllm
