#include "tokenizer/jinja_lexer.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

// Every line ends in \n; one at the very end of the template is dropped (keep_trailing_newline is
// off).
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    while (pos_ < text_.size()) lex_root();
    push(TokenType::kEnd, "");
    return std::move(tokens_);
  }

 private:
  void push(TokenType type, std::string text, Value value = Value()) {
    tokens_.push_back({type, line_, std::move(text), std::move(value)});
  }

  // Moves past text_[pos_, end), counting its lines.
  void advance(size_t end) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(pos_),
                                         text_.begin() + static_cast<std::ptrdiff_t>(end), '\n'));
    line_starting_ = end > pos_ ? text_[end - 1] == '\n' : false;
    pos_ = end;
  }

  bool at(size_t i, std::string_view what) const {
    return i <= text_.size() && text_.compare(i, what.size(), what) == 0;
  }

  size_t skip_space(size_t i) const {
    while (i < text_.size()) {
      size_t next = i;
      if (!is_space(decode_at(text_, next))) break;
      i = next;
    }
    return i;
  }

  // The end of a block end tag at i ("%}", "-%}", "+%}" with the whitespace it swallows), or 0.
  size_t end_tag(size_t i, std::string_view tag) const {
    if (text_[i] == '+' && at(i + 1, tag)) return i + 1 + tag.size();
    if (text_[i] == '-' && at(i + 1, tag)) return skip_space(i + 1 + tag.size());
    if (!at(i, tag)) return 0;
    i += tag.size();
    return i < text_.size() && text_[i] == '\n' ? i + 1 : i;
  }

  // {% raw %} at i: the end of the tag, or 0.
  size_t raw_tag(size_t i) const {
    i += 2;
    if (i < text_.size() && (text_[i] == '-' || text_[i] == '+')) ++i;
    i = skip_space(i);
    if (!at(i, "raw")) return 0;
    i = skip_space(i + 3);
    if (at(i, "-%}")) return skip_space(i + 3);
    return at(i, "%}") ? i + 2 : 0;
  }

  // Text before a tag, stripped as the tag's marker and lstrip_blocks ask.
  void push_data(size_t start, size_t end, char sign, bool variable) {
    std::string_view data = std::string_view(text_).substr(start, end - start);
    if (sign == '-') {
      data = strip(data, 2);
    } else if (sign != '+' && !variable) {
      const size_t newline = data.rfind('\n');
      const size_t line_start = newline == data.npos ? 0 : newline + 1;
      if ((line_start > 0 || line_starting_) && line_start < data.size() &&
          strip(data.substr(line_start), 1).empty())
        data = data.substr(0, line_start);
    }
    if (!data.empty()) push(TokenType::kData, std::string(data));
  }

  void lex_root() {
    size_t open = pos_;
    for (;; ++open) {
      open = text_.find('{', open);
      if (open == text_.npos || open + 1 >= text_.size()) {
        push(TokenType::kData, text_.substr(pos_));
        advance(text_.size());
        return;
      }
      const char c = text_[open + 1];
      if (c == '{' || c == '%' || c == '#') break;
    }
    const char kind = text_[open + 1];
    const char mark = open + 2 < text_.size() ? text_[open + 2] : '\0';
    const bool signed_tag = mark == '-' || mark == '+';
    push_data(pos_, open, signed_tag ? mark : '\0', kind == '{');
    advance(open);
    if (kind == '%') {
      if (const size_t end = raw_tag(open)) {
        advance(end);
        lex_raw();
        return;
      }
    }
    advance(open + 2 + (signed_tag ? 1 : 0));
    if (kind == '#') {
      lex_comment();
    } else {
      push(kind == '{' ? TokenType::kVariableBegin : TokenType::kBlockBegin, "");
      lex_expression(kind == '{');
    }
  }

  void lex_comment() {
    for (size_t i = pos_; i < text_.size(); ++i) {
      if (text_[i] != '#' && text_[i] != '-' && text_[i] != '+') continue;
      if (const size_t end = end_tag(i, "#}")) {
        advance(end);
        return;
      }
    }
    throw SyntaxError(line_, "Missing end of comment tag");
  }

  void lex_raw() {
    for (size_t i = text_.find("{%", pos_); i != text_.npos; i = text_.find("{%", i + 1)) {
      size_t j = i + 2;
      const char sign =
          j < text_.size() && (text_[j] == '-' || text_[j] == '+') ? text_[j++] : '\0';
      j = skip_space(j);
      if (!at(j, "endraw")) continue;
      j = skip_space(j + 6);
      const size_t end = j < text_.size() ? end_tag(j, "%}") : 0;
      if (!end) continue;
      push_data(pos_, i, sign, false);
      advance(end);
      return;
    }
    throw SyntaxError(line_, "Missing end of raw directive");
  }

  void lex_expression(bool variable) {
    std::string open;  // brackets waiting to be closed
    while (pos_ < text_.size()) {
      if (open.empty()) {
        size_t end = 0;
        if (!variable)
          end = end_tag(pos_, "%}");
        else if (at(pos_, "-}}"))
          end = skip_space(pos_ + 3);
        else if (at(pos_, "}}"))
          end = pos_ + 2;
        if (end) {
          push(variable ? TokenType::kVariableEnd : TokenType::kBlockEnd, "");
          advance(end);
          return;
        }
      }
      const size_t space = skip_space(pos_);
      if (space > pos_) {
        advance(space);
        continue;
      }
      const char c = text_[pos_];
      if (c >= '0' && c <= '9')
        lex_number();
      else if (c == '\'' || c == '"')
        lex_string(c);
      else if (!lex_name())
        lex_operator(open);
    }
  }

  bool digit(size_t i) const { return i < text_.size() && text_[i] >= '0' && text_[i] <= '9'; }

  // Digits that single underscores may separate.
  size_t digits(size_t i) const {
    while (digit(i) || (i < text_.size() && text_[i] == '_' && digit(i + 1))) ++i;
    return i;
  }

  void lex_number() {
    size_t end = digits(pos_);
    size_t real = 0;
    if (!(pos_ > 0 && text_[pos_ - 1] == '.')) {
      size_t i = end;
      if (i < text_.size() && text_[i] == '.' && digit(i + 1)) real = i = digits(i + 1);
      if (i < text_.size() && (text_[i] == 'e' || text_[i] == 'E')) {
        size_t j = i + 1;
        if (j < text_.size() && (text_[j] == '+' || text_[j] == '-')) ++j;
        if (digit(j)) real = digits(j);
      }
    }
    int base = 10;
    if (!real && text_[pos_] == '0') {
      const char mark = pos_ + 1 < text_.size() ? static_cast<char>(text_[pos_ + 1] | 0x20) : '\0';
      const int wanted = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
      const auto in_base = [&](size_t i) {
        if (i >= text_.size()) return false;
        const char c = text_[i];
        const int d = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                               : 99;
        return d < wanted;
      };
      size_t i = pos_ + 2;
      while (wanted && (in_base(i) || (i < text_.size() && text_[i] == '_' && in_base(i + 1)))) ++i;
      if (wanted && i > pos_ + 2) {
        base = wanted;
        end = i;
      } else {  // decimal zero: 0, 00, 0_0
        end = pos_ + 1;
        while (end < text_.size() && (text_[end] == '0' || (at(end, "_0"))))
          end += text_[end] == '_' ? 2 : 1;
      }
    }
    if (real) end = real;
    std::string text = text_.substr(pos_, end - pos_);
    std::erase(text, '_');
    if (real) {
      push(TokenType::kFloat, text, Value::real(std::strtod(text.c_str(), nullptr)));
    } else {
      errno = 0;
      const long long n = std::strtoll(text.c_str() + (base == 10 ? 0 : 2), nullptr, base);
      if (errno == ERANGE && base != 10) throw SyntaxError(line_, "integer literal is too large");
      push(TokenType::kInteger, text,
           errno == ERANGE ? Value::big_integer(text) : Value::integer(n));
    }
    advance(end);
  }

  void lex_string(char quote) {
    size_t end = pos_ + 1;
    while (end < text_.size() && text_[end] != quote) end += text_[end] == '\\' ? 2 : 1;
    if (end >= text_.size()) throw SyntaxError(line_, "unterminated string");
    push(TokenType::kString, "",
         Value::string(unescape(std::string_view(text_).substr(pos_ + 1, end - pos_ - 1))));
    advance(end + 1);
  }

  // Python's unicode-escape codec, applied to the text with its non-ASCII characters already
  // written as escapes.
  std::string unescape(std::string_view raw) const {
    std::string out;
    for (size_t i = 0; i < raw.size();) {
      if (raw[i] != '\\') {
        out += raw[i++];
        continue;
      }
      const char c = raw[++i];
      if (static_cast<unsigned char>(c) >= 0x80) {
        const char32_t wide = decode_at(raw, i);
        char buffer[16];
        std::snprintf(buffer, sizeof buffer,
                      wide <= 0xff     ? "\\x%02x"
                      : wide <= 0xffff ? "\\u%04x"
                                       : "\\U%08x",
                      static_cast<unsigned>(wide));
        out += buffer;
        continue;
      }
      ++i;
      switch (c) {
        case '\n':
          break;
        case 'n':
          out += '\n';
          break;
        case 't':
          out += '\t';
          break;
        case 'r':
          out += '\r';
          break;
        case 'a':
          out += '\a';
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'v':
          out += '\v';
          break;
        case '\\':
        case '\'':
        case '"':
          out += c;
          break;
        case 'x':
          append_utf8(out, hex(raw, i, 2));
          break;
        case 'u':
          append_utf8(out, hex(raw, i, 4));
          break;
        case 'U':
          append_utf8(out, hex(raw, i, 8));
          break;
        case 'N':
          throw SyntaxError(line_, "\\N{...} in a string is not supported");
        default:
          if (c >= '0' && c <= '7') {
            char32_t value = static_cast<char32_t>(c - '0');
            for (int k = 0; k < 2 && i < raw.size() && raw[i] >= '0' && raw[i] <= '7'; ++k)
              value = value * 8 + static_cast<char32_t>(raw[i++] - '0');
            append_utf8(out, value);
          } else {
            out += '\\';
            out += c;
          }
      }
    }
    return out;
  }

  char32_t hex(std::string_view raw, size_t& i, int count) const {
    char32_t value = 0;
    for (int k = 0; k < count; ++k, ++i) {
      const char c = i < raw.size() ? raw[i] : '\0';
      if (!std::isxdigit(static_cast<unsigned char>(c)))
        throw SyntaxError(line_, "truncated \\x, \\u or \\U escape");
      value = value * 16 + static_cast<char32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (value > 0x10ffff) throw SyntaxError(line_, "illegal Unicode character");
    return value;
  }

  bool lex_name() {
    size_t end = pos_;
    while (end < text_.size()) {
      size_t next = end;
      const char32_t c = decode_at(text_, next);
      const bool part =
          c < 0x80 ? std::isalnum(static_cast<int>(c)) || c == '_' : is_word(c) || is_mark(c);
      if (!part) break;
      end = next;
    }
    if (end == pos_) return false;
    std::string name = text_.substr(pos_, end - pos_);
    if (!is_identifier(name)) throw SyntaxError(line_, "Invalid character in identifier");
    push(TokenType::kName, std::move(name));
    advance(end);
    return true;
  }

  static bool is_mark(char32_t c) {
    std::string one = "a";
    append_utf8(one, c);
    return is_identifier(one);
  }

  void lex_operator(std::string& open) {
    static constexpr std::string_view kOperators[] = {
        "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
        "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    const auto* op = std::find_if(std::begin(kOperators), std::end(kOperators),
                                  [&](std::string_view candidate) { return at(pos_, candidate); });
    if (op == std::end(kOperators))
      throw SyntaxError(line_, "unexpected char '" + text_.substr(pos_, 1) + "'");
    const char c = (*op)[0];
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) throw SyntaxError(line_, std::string("unexpected '") + c + "'");
      if (open.back() != c)
        throw SyntaxError(line_,
                          std::string("unexpected '") + c + "', expected '" + open.back() + "'");
      open.pop_back();
    }
    push(TokenType::kOperator, std::string(*op));
    advance(pos_ + op->size());
  }

  const std::string text_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace nanovllm::jinja
