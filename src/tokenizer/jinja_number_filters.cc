// Filters on numbers, and text read as numbers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

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

}  // namespace

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

NativeFunction find_number_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> filters = {
      {"int", to_int},   {"float", to_float}, {"round", round}, {"filesizeformat", filesizeformat},
      {"abs", absolute},
  };
  const auto it = filters.find(name);
  return it == filters.end() ? nullptr : it->second;
}

}  // namespace nanovllm::jinja
