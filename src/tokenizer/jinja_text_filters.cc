// Filters on text and numbers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

template <std::string (*transform)(std::string_view)>
Value text_filter(Interpreter&, const Value& self, Args& args) {
  args.bind("filter", {}, 0);
  return Value::string(transform(str(self)));
}

// The filter, unlike the method, starts a word after any of these separators only.
std::string title_filter(std::string_view text) {
  const auto separator = [](char32_t c) {
    return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  std::string out, word;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t first = byte_offset(word, 1);
    out += upper(word.substr(0, first)) + lower(word.substr(first));
    word.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    if (separator(c)) flush();
    append_utf8(separator(c) ? out : word, c);
  }
  flush();
  return out;
}

std::string url_quote(const std::string& text, bool query) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '_' || c == '.' || c == '-' || c == '~' ||
        (c == '/' && !query)) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "%%%02X", byte);
      out += buffer;
    }
  }
  return out;
}

Value urlencode(Interpreter&, const Value& self, Args& args) {
  args.bind("urlencode", {}, 0);
  if (self.is_string() || !is_iterable(self)) return Value::string(url_quote(str(self), false));
  std::string out;
  const auto pair = [&](const Value& key, const Value& value) {
    if (!out.empty()) out += '&';
    out += url_quote(str(key), true) + "=" + url_quote(str(value), true);
  };
  if (self.is(Kind::kDict)) {
    for (const auto& [key, value] : self.dict().items) pair(key, value);
  } else {
    Iterator it(self);
    for (Value item; it.next(item);) {
      const Values two = to_vector(item);
      if (two.size() != 2) throw Failure("urlencode needs pairs");
      pair(two[0], two[1]);
    }
  }
  return Value::string(std::move(out));
}

Value xmlattr(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("xmlattr", {"autospace"}, 0);
  if (!self.is(Kind::kDict)) throw Failure("xmlattr needs a mapping");
  std::string out;
  for (const auto& [key, value] : self.dict().items) {
    if (value.is_none() || value.is_undefined()) continue;
    const std::string& name = to_text(key, "attribute name");
    if (name.find_first_of(" \t\n\r\f\v/>=") != name.npos)
      throw Failure("Invalid character in attribute name: " + repr(key));
    if (!out.empty()) out += ' ';
    out += escape_html(name) + "=\"" + escape_html(str(value)) + "\"";
  }
  if (!out.empty() && (!bound[0] || truthy(*bound[0]))) out.insert(0, 1, ' ');
  return Value::string(std::move(out));
}

Value replace(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("replace", {"old", "new", "count"}, 2);
  const int64_t count = bound[2] && !bound[2]->is_none() ? to_index(*bound[2]) : -1;
  return Value::string(replace_all(str(self), str(*bound[0]), str(*bound[1]), count));
}

Value trim(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("trim", {"chars"}, 0);
  const std::string text = str(self);
  if (!bound[0] || bound[0]->is_none()) return Value::string(std::string(strip(text, 3)));
  const std::u32string chars = to_code_points(to_text(*bound[0], "strip argument"));
  return Value::string(std::string(strip(text, 3, &chars)));
}

Value center(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("center", {"width"}, 0);
  return Value::string(pad(str(self), bound[0] ? to_index(*bound[0]) : 80, U' ', '^'));
}

Value indent(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("indent", {"width", "first", "blank"}, 0);
  std::string indention(4, ' ');
  if (bound[0])
    indention = bound[0]->is_string() ? bound[0]->text() : pad("", to_index(*bound[0]), U' ', '<');
  if (self.is_undefined()) self.fail_undefined();
  const bool first = bound[1] && truthy(*bound[1]), blank = bound[2] && truthy(*bound[2]);
  const std::vector<std::string> lines = split_lines(to_text(self, "indent input") + "\n", false);
  std::string out = first ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  return Value::string(std::move(out));
}

Value truncate(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("truncate", {"length", "killwords", "end", "leeway"}, 0);
  const int64_t limit = bound[0] ? to_index(*bound[0]) : 255;
  const std::string end = bound[2] ? to_text(*bound[2], "end") : "...";
  const int64_t leeway = bound[3] && !bound[3]->is_none() ? to_index(*bound[3]) : 5;
  if (limit < num_code_points(end))
    throw Failure("expected length >= " + std::to_string(num_code_points(end)));
  if (leeway < 0) throw Failure("expected leeway >= 0");
  const int64_t size = length(self);
  if (size <= (limit > INT64_MAX - leeway ? INT64_MAX : limit + leeway)) return self;
  const std::string& text = to_text(self, "truncate input");
  std::string cut = text.substr(0, byte_offset(text, limit - num_code_points(end)));
  if (!bound[1] || !truthy(*bound[1])) {
    const size_t space = cut.rfind(' ');
    if (space != cut.npos) cut.resize(space);
  }
  return Value::string(cut + end);
}

Value wordcount(Interpreter&, const Value& self, Args& args) {
  args.bind("wordcount", {}, 0);
  const std::string text = str(self);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const bool word = is_word(decode_at(text, i));
    words += word && !inside;
    inside = word;
  }
  return Value::integer(words);
}

Value format(Interpreter&, const Value& self, Args& args) {
  if (!args.positional.empty() && !args.keywords.empty())
    throw Failure("can't handle positional and keyword arguments at the same time");
  if (args.keywords.empty())
    return Value::string(percent_format(str(self), Value::tuple(args.positional)));
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [key, value] : args.keywords) items.emplace_back(Value::string(key), value);
  return Value::string(percent_format(str(self), Value::dict(std::move(items))));
}

// Python's float(text). False if it is none.
bool parse_float(const std::string& raw, double& out) {
  std::string text(strip(raw, 3));
  for (size_t i = 0; i < text.size(); ++i)
    if (text[i] == '_' &&
        (i == 0 || i + 1 == text.size() || !std::isdigit(static_cast<unsigned char>(text[i - 1])) ||
         !std::isdigit(static_cast<unsigned char>(text[i + 1]))))
      return false;
  std::erase(text, '_');
  const std::string bare =
      lower(!text.empty() && (text[0] == '-' || text[0] == '+') ? text.substr(1) : text);
  const bool special = bare == "inf" || bare == "infinity" || bare == "nan";
  if (!special && (bare.empty() || bare.find_first_not_of("0123456789.e+-") != bare.npos))
    return false;
  char* end = nullptr;
  out = std::strtod(text.c_str(), &end);
  return *end == '\0';
}

// Python's int(text, base).
bool parse_int(const std::string& raw, int64_t base, Value& out) {
  std::string text(strip(raw, 3));
  const bool negative = !text.empty() && text[0] == '-';
  if (negative || (!text.empty() && text[0] == '+')) text.erase(0, 1);
  const char mark = text.size() > 2 && text[0] == '0' ? static_cast<char>(text[1] | 0x20) : '\0';
  const int64_t marked = mark == 'x' ? 16 : mark == 'o' ? 8 : mark == 'b' ? 2 : 0;
  if (marked && (base == marked || base == 0)) {
    text.erase(0, text[2] == '_' ? 3 : 2);
    base = marked;
  } else if (base == 0) {
    if (text.size() > 1 && text[0] == '0' && text.find_first_not_of("0_") != text.npos)
      return false;
    base = 10;
  }
  if (base < 2 || base > 36) return false;
  if (text.empty() || text.front() == '_' || text.back() == '_' || text.find("__") != text.npos)
    return false;
  std::erase(text, '_');
  int64_t value = 0;
  bool overflow = false;
  for (const char c : text) {
    const int digit = c >= '0' && c <= '9'                     ? c - '0'
                      : (c | 0x20) >= 'a' && (c | 0x20) <= 'z' ? (c | 0x20) - 'a' + 10
                                                               : 99;
    if (digit >= base) return false;
    overflow |= __builtin_mul_overflow(value, base, &value) ||
                __builtin_sub_overflow(value, int64_t{digit}, &value);
  }
  if (overflow || (!negative && value == INT64_MIN)) {
    if (base != 10) throw Failure("integer does not fit 64 bits");
    text.erase(0, std::min(text.find_first_not_of('0'), text.size() - 1));
    out = Value::big_integer((negative ? "-" : "") + text);
  } else {
    out = Value::integer(negative ? value : -value);
  }
  return true;
}

bool integer_of(double d, Value& out) {
  if (!std::isfinite(d)) return false;
  if (std::fabs(d) < 9.2e18) {
    out = Value::integer(static_cast<int64_t>(d));
  } else {
    char buffer[400];
    std::snprintf(buffer, sizeof buffer, "%.0f", d);
    out = Value::big_integer(buffer);
  }
  return true;
}

Value to_int(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("int", {"default", "base"}, 0);
  const Value fallback = bound[0] ? *bound[0] : Value::integer(0);
  if (self.is_undefined()) self.fail_undefined();
  Value out;
  if (self.is_integral()) return Value::integer(self.as_int());
  if (self.is(Kind::kBigInt)) return self;
  if (self.is(Kind::kFloat)) {
    if (std::isinf(self.as_real())) throw Failure("cannot convert float infinity to integer");
    return integer_of(self.as_real(), out) ? out : fallback;
  }
  if (!self.is_string()) return fallback;
  if (parse_int(self.text(), bound[1] ? to_index(*bound[1]) : 10, out)) return out;
  double d = 0;
  return parse_float(self.text(), d) && integer_of(d, out) ? out : fallback;
}

Value to_float(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("float", {"default"}, 0);
  if (self.is_undefined()) self.fail_undefined();
  double d = 0;
  if (self.is_number()) return Value::real(self.number());
  if (self.is_string() && parse_float(self.text(), d)) return Value::real(d);
  return bound[0] ? *bound[0] : Value::real(0);
}

Value round(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("round", {"precision", "method"}, 0);
  const int64_t precision = bound[0] ? to_index(*bound[0]) : 0;
  const std::string method = bound[1] ? to_text(*bound[1], "method") : "common";
  if (method != "common" && method != "ceil" && method != "floor")
    throw Failure("method must be common, ceil or floor");
  if (self.is_undefined()) self.fail_undefined();
  if (!self.is_number())
    throw Failure(std::string("type ") + type_name(self) + " doesn't define __round__ method");
  if (method == "common") {
    if (self.is(Kind::kFloat)) return round_half_even(self.as_real(), precision);
    if (precision >= 0 || self.is(Kind::kBigInt))
      return self.is(Kind::kBool) ? Value::integer(self.as_int()) : self;
    if (precision < -18) return Value::integer(0);
    const auto unit = static_cast<int64_t>(std::pow(10.0, static_cast<double>(-precision)));
    int64_t quotient = self.as_int() / unit, rest = self.as_int() % unit;
    if (2 * std::llabs(rest) > unit || (2 * std::llabs(rest) == unit && quotient % 2 != 0))
      quotient += self.as_int() < 0 ? -1 : 1;
    return binary_operation("*", Value::integer(quotient), Value::integer(unit));
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = self.number() * scale;
  if (!std::isfinite(scaled) || scale == 0)
    throw Failure("cannot convert float infinity or NaN to integer");
  const double whole = method == "ceil" ? std::ceil(scaled) : std::floor(scaled);
  return Value::real((whole == 0 ? 0.0 : whole) / scale);
}

Value filesizeformat(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("filesizeformat", {"binary"}, 0);
  double bytes = 0;
  if (self.is_number())
    bytes = self.number();
  else if (!self.is_string() || !parse_float(self.text(), bytes))
    throw Failure("could not convert to float");
  const bool binary = bound[0] && truthy(*bound[0]);
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return Value::string("1 Byte");
  if (bytes < base) return Value::string(std::to_string(static_cast<int64_t>(bytes)) + " Bytes");
  double unit = base;
  char buffer[400];
  for (const char prefix : std::string("kMGTPEZY")) {
    unit *= base;
    if (bytes >= unit && prefix != 'Y') continue;
    std::snprintf(buffer, sizeof buffer, "%.1f %c%sB", base * bytes / unit,
                  binary && prefix == 'k' ? 'K' : prefix, binary ? "i" : "");
    break;
  }
  return Value::string(buffer);
}

Value absolute(Interpreter&, const Value& self, Args& args) {
  args.bind("abs", {}, 0);
  if (self.is(Kind::kFloat)) return Value::real(std::fabs(self.as_real()));
  if (self.is_undefined() || !self.is_number())
    throw Failure(std::string("bad operand type for abs(): '") + type_name(self) + "'");
  return compare_numbers(self, Value::integer(0)) < 0 ? unary_operation("-", self)
                                                      : unary_operation("+", self);
}

Value striptags(Interpreter&, const Value& self, Args& args) {
  args.bind("striptags", {}, 0);
  std::string text = str(self);
  const auto remove = [&](const char* open, const char* close) {
    std::string out;
    size_t i = 0;
    for (const std::string start = open, end = close;;) {
      const size_t from = text.find(start, i);
      const size_t to = from == text.npos ? from : text.find(end, from);
      if (to == text.npos) break;
      out.append(text, i, from - i);
      i = to + end.size();
    }
    text = out.append(text, i, text.npos);
  };
  remove("<!--", "-->");
  remove("<", ">");
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (!is_space(decode_at(text, i)))
      out.append(text, start, i - start);
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  if (out.find('&') != out.npos) throw Failure("striptags: character references are not supported");
  return Value::string(std::move(out));
}

Value tojson(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style;
  style.ensure_ascii = bound[0] && truthy(*bound[0]);
  if (bound[1] && !bound[1]->is_none()) {
    style.pretty = true;
    style.item_separator = ",";
    style.indent =
        bound[1]->is_string() ? bound[1]->text() : pad("", to_index(*bound[1]), U' ', '<');
  }
  if (bound[2] && !bound[2]->is_none()) {
    const Values two = to_vector(*bound[2]);
    if (two.size() != 2) throw Failure("separators must be a pair");
    style.item_separator = to_text(two[0], "separator");
    style.key_separator = to_text(two[1], "separator");
  }
  style.sort_keys = bound[3] && truthy(*bound[3]);
  return Value::string(to_json(self, style));
}

template <bool escaped>
Value to_markup(Interpreter&, const Value& self, Args& args) {
  args.bind("filter", {}, 0);
  if (self.is_markup()) return self;
  return Value::markup(escaped ? escape_html(str(self)) : str(self));
}

Value to_string(Interpreter&, const Value& self, Args& args) {
  args.bind("string", {}, 0);
  return self.is_string() ? self : Value::string(str(self));
}

Value unsupported(Interpreter&, const Value&, Args&) {
  throw Failure("this HTML or formatting filter (pprint, urlize, wordwrap) is not supported");
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

// round(value, digits) of a float: the nearest decimal, ties (of the exact binary value) to even.
Value round_half_even(double value, int64_t digits) {
  if (!std::isfinite(value) || digits > 323) return Value::real(value);
  if (digits < -308) return Value::real(std::copysign(0.0, value));
  if (digits >= 0) {
    char buffer[800];
    std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), value);
    return Value::real(std::strtod(buffer, nullptr));
  }
  const double scale = std::pow(10.0, static_cast<double>(-digits));
  return Value::real(std::nearbyint(value / scale) * scale);
}

NativeFunction find_text_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> filters = {
      {"upper", text_filter<upper>},
      {"lower", text_filter<lower>},
      {"capitalize", text_filter<capitalize>},
      {"title", text_filter<title_filter>},
      {"e", to_markup<true>},
      {"escape", to_markup<true>},
      {"forceescape", to_markup<true>},
      {"urlencode", urlencode},
      {"xmlattr", xmlattr},
      {"replace", replace},
      {"trim", trim},
      {"center", center},
      {"indent", indent},
      {"truncate", truncate},
      {"wordcount", wordcount},
      {"format", format},
      {"int", to_int},
      {"float", to_float},
      {"round", round},
      {"filesizeformat", filesizeformat},
      {"abs", absolute},
      {"striptags", striptags},
      {"tojson", tojson},
      {"string", to_string},
      {"safe", to_markup<false>},
      {"pprint", unsupported},
      {"urlize", unsupported},
      {"wordwrap", unsupported},
  };
  const auto it = filters.find(name);
  return it == filters.end() ? nullptr : it->second;
}

}  // namespace nanovllm::jinja
