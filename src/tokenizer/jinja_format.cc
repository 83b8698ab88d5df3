// Python's three ways to format: "%d" % x, "{:d}".format(x) and format(x, "d").
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

constexpr int64_t kMaxWidth = 1 << 20;

int64_t checked_width(int64_t width) {
  if (width > kMaxWidth) throw Failure("a field is too wide");
  return width;
}

// printf("%.<precision><type>"), without a sign.
std::string digits_of(double value, char type, int64_t precision, bool alternate) {
  if (precision > 10000) throw Failure("precision is too large");
  char format[16];
  std::snprintf(format, sizeof format, "%%%s.*%c", alternate ? "#" : "", type);
  std::string out(
      static_cast<size_t>(std::snprintf(nullptr, 0, format, static_cast<int>(precision), value)),
      '\0');
  std::snprintf(out.data(), out.size() + 1, format, static_cast<int>(precision), value);
  return out;
}

std::string digits_of(uint64_t value, unsigned base, bool upper) {
  std::string out;
  do {
    out += (upper ? "0123456789ABCDEF" : "0123456789abcdef")[value % base];
    value /= base;
  } while (value);
  std::reverse(out.begin(), out.end());
  return out;
}

uint64_t magnitude(int64_t n) {
  return n < 0 ? 0 - static_cast<uint64_t>(n) : static_cast<uint64_t>(n);
}

std::string ascii_repr(const Value& value) {
  std::string out;
  const std::string text = repr(value);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    char buffer[16];
    std::snprintf(buffer, sizeof buffer,
                  c <= 0xff     ? "\\x%02x"
                  : c <= 0xffff ? "\\u%04x"
                                : "\\U%08x",
                  static_cast<unsigned>(c));
    if (c < 0x80)
      out += static_cast<char>(c);
    else
      out += buffer;
  }
  return out;
}

std::string truncated(std::string text, int64_t code_points) {
  if (code_points >= 0) text.resize(byte_offset(text, code_points));
  return text;
}

double to_double(const Value& v) {
  if (v.is_undefined()) v.fail_undefined();
  if (!v.is_number()) throw Failure(std::string("must be real number, not ") + type_name(v));
  return v.number();
}

// One conversion of a % format.
struct PercentField {
  bool left = false, plus = false, space = false, alternate = false, zero = false;
  int64_t width = 0, precision = -1;

  std::string padded(const std::string& sign, const std::string& prefix, std::string digits,
                     bool numeric) const {
    const int64_t missing =
        width - num_code_points(digits) - static_cast<int64_t>(sign.size() + prefix.size());
    if (missing <= 0) return sign + prefix + digits;
    const std::string fill(static_cast<size_t>(missing), !left && zero && numeric ? '0' : ' ');
    if (left) return sign + prefix + digits + fill;
    return fill[0] == '0' ? sign + prefix + fill + digits : fill + sign + prefix + digits;
  }

  std::string sign(bool negative) const { return negative ? "-" : plus ? "+" : space ? " " : ""; }

  std::string convert(char type, const Value& v) const {
    switch (type) {
      case 's':
        return padded("", "", truncated(str(v), precision), false);
      case 'r':
        return padded("", "", truncated(repr(v), precision), false);
      case 'a':
        return padded("", "", truncated(ascii_repr(v), precision), false);
      case 'c':
        if (v.is_string() && num_code_points(v.text()) == 1) return padded("", "", v.text(), false);
        if (v.is_integral() && v.as_int() >= 0 && v.as_int() <= 0x10ffff) {
          std::string one;
          append_utf8(one, static_cast<char32_t>(v.as_int()));
          return padded("", "", one, false);
        }
        throw Failure("%c requires int or char");
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return integer(type, v);
      default:
        break;
    }
    double value = to_double(v);
    const bool negative = std::signbit(value) && !std::isnan(value);
    std::string digits =
        digits_of(std::fabs(value), type, precision < 0 ? 6 : precision, alternate);
    return padded(sign(negative), "", std::move(digits), std::isfinite(value));
  }

  std::string integer(char type, const Value& v) const {
    const bool decimal = type == 'd' || type == 'i' || type == 'u';
    if (v.is_undefined()) v.fail_undefined();
    std::string digits;
    bool negative = false;
    if (v.is(Kind::kBigInt) && decimal) {
      negative = v.text()[0] == '-';
      digits = v.text().substr(negative);
    } else {
      int64_t n = 0;
      if (v.is_integral()) {
        n = v.as_int();
      } else if (v.is(Kind::kFloat) && decimal) {
        if (!(std::fabs(v.as_real()) < 9.2e18))
          throw Failure("cannot convert float to a 64-bit integer");
        n = static_cast<int64_t>(v.as_real());
      } else {
        throw Failure(std::string("%") + type + " format: a number is required, not " +
                      type_name(v));
      }
      negative = n < 0;
      digits = digits_of(magnitude(n), decimal ? 10 : type == 'o' ? 8 : 16, type == 'X');
    }
    if (static_cast<int64_t>(digits.size()) < precision)
      digits.insert(0, static_cast<size_t>(checked_width(precision)) - digits.size(), '0');
    const char* prefix = !alternate    ? ""
                         : type == 'x' ? "0x"
                         : type == 'X' ? "0X"
                         : type == 'o' ? "0o"
                                       : "";
    return padded(sign(negative), prefix, std::move(digits), true);
  }
};

}  // namespace

std::string percent_format(const std::string& format, const Value& arguments) {
  const bool many = arguments.is(Kind::kTuple);
  const size_t count = many ? arguments.items().size() : 1;
  size_t used = 0;
  const auto next = [&]() -> const Value& {
    if (used >= count) throw Failure("not enough arguments for format string");
    return many ? arguments.items()[used++] : (++used, arguments);
  };
  std::string out;
  bool by_name = false;
  for (size_t i = 0; i < format.size();) {
    if (format[i] != '%') {
      out += format[i++];
      continue;
    }
    ++i;
    PercentField field;
    const Value* named = nullptr;
    if (i < format.size() && format[i] == '(') {
      int depth = 1;
      const size_t start = ++i;
      for (; i < format.size() && depth > 0; ++i)
        depth += format[i] == '(' ? 1 : format[i] == ')' ? -1 : 0;
      if (depth > 0) throw Failure("incomplete format key");
      const std::string key = format.substr(start, i - 1 - start);
      if (!arguments.is(Kind::kDict)) throw Failure("format requires a mapping");
      named = arguments.dict().find(key);
      if (!named) throw Failure("KeyError: '" + key + "'");
      by_name = true;
    }
    for (; i < format.size(); ++i) {
      if (format[i] == '-')
        field.left = true;
      else if (format[i] == '+')
        field.plus = true;
      else if (format[i] == ' ')
        field.space = true;
      else if (format[i] == '#')
        field.alternate = true;
      else if (format[i] == '0')
        field.zero = true;
      else
        break;
    }
    const auto number = [&](int64_t& into, bool is_width) {
      if (i < format.size() && format[i] == '*') {
        ++i;
        const Value& v = next();
        if (!v.is_integral()) throw Failure("* wants int");
        into = v.as_int();
        if (is_width && into < 0)
          field.left = true, into = into < -kMaxWidth ? kMaxWidth + 1 : -into;
        checked_width(into);
        return;
      }
      while (i < format.size() && format[i] >= '0' && format[i] <= '9')
        into = checked_width(into * 10 + (format[i++] - '0'));
    };
    number(field.width, true);
    if (i < format.size() && format[i] == '.') {
      ++i;
      field.precision = 0;
      number(field.precision, false);
      field.precision = std::max<int64_t>(field.precision, 0);
    }
    if (i < format.size() && (format[i] == 'l' || format[i] == 'h' || format[i] == 'L')) ++i;
    if (i >= format.size()) throw Failure("incomplete format");
    const char type = format[i++];
    if (type == '%') {
      out += '%';
    } else if (std::string_view("srcadiuxXofFeEgG").find(type) == std::string_view::npos) {
      throw Failure(std::string("unsupported format character '") + type + "'");
    } else {
      out += field.convert(type, named ? *named : next());
    }
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  const bool mapping = arguments.is(Kind::kDict) || arguments.is(Kind::kList) ||
                       arguments.is_undefined() || arguments.is(Kind::kRange);
  if (used < count && !by_name && !mapping)
    throw Failure("not all arguments converted during string formatting");
  return out;
}

std::string format_spec(const Value& value, std::string_view spec) {
  if (spec.empty()) return str(value);
  if (!value.is_string() && !value.is_number())
    throw Failure(std::string("unsupported format string passed to ") + type_name(value) +
                  ".__format__");
  const std::u32string s = to_code_points(spec);
  size_t i = 0;
  const auto is_align = [&](size_t k) {
    return k < s.size() && (s[k] == '<' || s[k] == '>' || s[k] == '=' || s[k] == '^');
  };
  char32_t fill = ' ', align = 0, sign = 0, group = 0, type = 0;
  bool alternate = false;
  int64_t width = 0, precision = -1;
  if (is_align(1)) {
    fill = s[0];
    align = s[1];
    i = 2;
  } else if (is_align(0)) {
    align = s[i++];
  }
  if (i < s.size() && (s[i] == '+' || s[i] == '-' || s[i] == ' ')) sign = s[i++];
  if (i < s.size() && s[i] == '#') alternate = true, ++i;
  if (i < s.size() && s[i] == '0') {
    ++i;
    if (!align) fill = '0', align = value.is_string() ? '<' : '=';
  }
  while (i < s.size() && s[i] >= '0' && s[i] <= '9')
    width = checked_width(width * 10 + (s[i++] - '0'));
  if (i < s.size() && (s[i] == ',' || s[i] == '_')) group = s[i++];
  if (i < s.size() && s[i] == '.') {
    if (++i >= s.size() || s[i] < '0' || s[i] > '9')
      throw Failure("Format specifier missing precision");
    precision = 0;
    while (i < s.size() && s[i] >= '0' && s[i] <= '9')
      precision = checked_width(precision * 10 + (s[i++] - '0'));
  }
  if (i < s.size()) type = s[i++];
  if (i != s.size()) throw Failure("Invalid format specifier");
  const auto unknown = [&]() {
    throw Failure("Unknown format code for object of type '" + std::string(type_name(value)) + "'");
  };

  std::string head, digits, tail;  // sign and prefix; the digits that groups split; the rest
  if (value.is_string()) {
    if ((type && type != 's') || sign || alternate || group || align == '=') unknown();
    digits = truncated(value.text(), precision);
    if (!align) align = '<';
  } else {
    if (!align) align = '>';
    bool negative = false;
    const std::u32string_view integer_types = U"bcdoxXn", float_types = U"eEfFgGn%";
    if (value.is(Kind::kFloat) ||
        (type && type != 'n' && float_types.find(type) != float_types.npos)) {
      if (type && float_types.find(type) == float_types.npos) unknown();
      double d = value.number();
      negative = std::signbit(d) && !std::isnan(d);
      d = std::fabs(d);
      if (type == '%') d *= 100;
      if (!type && precision < 0) {
        digits = float_repr(d);
      } else {
        char kind = type == '%' ? 'f' : !type || type == 'n' ? 'g' : static_cast<char>(type);
        int64_t places = precision < 0 ? 6 : precision;
        if ((kind == 'g' || kind == 'G') && places == 0) places = 1;
        digits = digits_of(d, kind, places, alternate);
        if (!type && std::isfinite(d)) {
          // Without a type: as g, but a fraction is always shown and an exponent comes one digit
          // earlier.
          const std::string e = digits_of(d, 'e', places - 1, false);
          const int exponent = std::atoi(e.c_str() + e.find('e') + 1);
          if (digits.find('e') == digits.npos && exponent >= places - 1 && d != 0) {
            digits = e;
            const size_t mark = digits.find('e');
            std::string mantissa = digits.substr(0, mark);
            if (mantissa.find('.') != mantissa.npos) {
              while (mantissa.back() == '0') mantissa.pop_back();
              if (mantissa.back() == '.') mantissa.pop_back();
            }
            digits = mantissa + digits.substr(mark);
          } else if (digits.find_first_of(".e") == digits.npos) {
            digits += ".0";
          }
        }
      }
      if (type == '%') tail = "%";
      const size_t end = digits.find_first_not_of("0123456789");
      if (end != digits.npos && std::isfinite(d)) {
        tail = digits.substr(end) + tail;
        digits.resize(end);
      }
    } else {
      if ((type && integer_types.find(type) == integer_types.npos) || precision >= 0) unknown();
      if (value.is(Kind::kBigInt)) {
        if (type && type != 'd') unknown();
        negative = value.text()[0] == '-';
        digits = value.text().substr(negative);
      } else if (type == 'c') {
        if (value.as_int() < 0 || value.as_int() > 0x10ffff)
          throw Failure("%c arg not in range(0x110000)");
        append_utf8(digits, static_cast<char32_t>(value.as_int()));
      } else {
        negative = value.as_int() < 0;
        digits = digits_of(magnitude(value.as_int()),
                           type == 'b'                  ? 2
                           : type == 'o'                ? 8
                           : type == 'x' || type == 'X' ? 16
                                                        : 10,
                           type == 'X');
      }
      if (group == ',' && (type == 'b' || type == 'o' || type == 'x' || type == 'X' || type == 'c'))
        unknown();
    }
    head = negative ? "-" : sign == '+' ? "+" : sign == ' ' ? " " : "";
    if (alternate && (type == 'b' || type == 'o' || type == 'x' || type == 'X'))
      head += std::string("0") + static_cast<char>(type);
  }
  const auto grouped = [&](std::string text) {
    if (!group) return text;
    const int64_t size = type == 'b' || type == 'o' || type == 'x' || type == 'X' ? 4 : 3;
    for (int64_t at = static_cast<int64_t>(text.size()) - size; at > 0; at -= size)
      text.insert(static_cast<size_t>(at), 1, static_cast<char>(group));
    return text;
  };
  if (align == '=') {
    std::string body = grouped(digits);
    // Zeros that fill are grouped too.
    while (group && fill == '0' && num_code_points(head + grouped("0" + digits) + tail) <= width)
      body = grouped(digits.insert(0, 1, '0'));
    const int64_t rest = width - static_cast<int64_t>(head.size());
    if (group && fill == '0' && num_code_points(body + tail) < rest)
      return head + "0" + body + tail;
    return head + pad(body + tail, rest, fill, '>');
  }
  const std::string text = head + grouped(digits) + tail;
  if (align != '^') return pad(text, width, fill, static_cast<char>(align));
  const int64_t missing = std::max<int64_t>(width - num_code_points(text), 0);
  return pad(pad(text, width - missing + missing / 2, fill, '>'), width, fill, '<');
}

std::string str_format(Interpreter& interpreter, const std::string& format, const Args& args) {
  int64_t automatic = 0;  // -1: the fields are numbered by hand
  const auto look_up = [&](std::string_view name) {
    size_t i = name.find_first_of(".[");
    const std::string first(name.substr(0, i));
    Value value;
    const bool digits = !first.empty() && first.find_first_not_of("0123456789") == first.npos;
    if (first.empty() || digits) {
      if (digits ? automatic > 0 : automatic < 0)
        throw Failure("cannot switch between manual and automatic field numbering");
      if (digits && first.size() > 9) throw Failure("Too many decimal digits in format string");
      const int64_t index = digits ? std::atoll(first.c_str()) : automatic++;
      if (digits) automatic = -1;
      if (index >= static_cast<int64_t>(args.positional.size()))
        throw Failure("Replacement index out of range for positional args tuple");
      value = args.positional[static_cast<size_t>(index)];
    } else {
      const Value* found = args.keyword(first);
      if (!found) throw Failure("KeyError: '" + first + "'");
      value = *found;
    }
    while (i != name.npos && i < name.size()) {
      if (name[i] == '.') {
        const size_t end = name.find_first_of(".[", i + 1);
        const std::string_view attribute = name.substr(i + 1, end == name.npos ? end : end - i - 1);
        if (attribute.empty()) throw Failure("Empty attribute in format string");
        value = interpreter.get_attribute(value, attribute);
        i = end;
      } else {
        const size_t end = name[i] == '[' ? name.find(']', i) : name.npos;
        if (end == name.npos || end == i + 1) throw Failure("expected '}' before end of string");
        const std::string key(name.substr(i + 1, end - i - 1));
        const bool index = key.find_first_not_of("0123456789") == key.npos && key.size() < 10;
        value = interpreter.get_item(
            value, index ? Value::integer(std::atoll(key.c_str())) : Value::string(key));
        i = end + 1;
      }
    }
    return value;
  };
  const auto expand = [&](const auto& self, std::string_view text, int depth) -> std::string {
    if (depth > 2) throw Failure("Max string recursion exceeded");
    std::string out;
    for (size_t i = 0; i < text.size();) {
      const char c = text[i++];
      if (c != '{' && c != '}') {
        out += c;
        continue;
      }
      if (i < text.size() && text[i] == c) {
        out += c;
        ++i;
        continue;
      }
      if (c == '}') throw Failure("Single '}' encountered in format string");
      const size_t start = i;
      int open = 1;
      for (; i < text.size() && open > 0; ++i) open += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
      if (open > 0) throw Failure("Single '{' encountered in format string");
      const std::string_view field = text.substr(start, i - 1 - start);
      size_t bracket = 0, end = 0;
      for (; end < field.size(); ++end) {
        if (field[end] == '[')
          bracket = 1;
        else if (field[end] == ']')
          bracket = 0;
        else if (!bracket && (field[end] == '!' || field[end] == ':'))
          break;
      }
      Value value = look_up(field.substr(0, end));
      std::string_view rest = field.substr(end);
      if (rest.starts_with("!")) {
        const char conversion = rest.size() > 1 ? rest[1] : '\0';
        if (conversion == 's')
          value = Value::string(str(value));
        else if (conversion == 'r')
          value = Value::string(repr(value));
        else if (conversion == 'a')
          value = Value::string(ascii_repr(value));
        else
          throw Failure("Unknown conversion specifier");
        rest.remove_prefix(2);
        if (!rest.empty() && rest[0] != ':')
          throw Failure("expected ':' after conversion specifier");
      }
      if (rest.starts_with(":")) rest.remove_prefix(1);
      out += format_spec(value, self(self, rest, depth + 1));
      if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
    }
    return out;
  };
  return expand(expand, format, 1);
}

}  // namespace nanovllm::jinja
