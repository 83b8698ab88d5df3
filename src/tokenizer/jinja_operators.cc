// Arithmetic, with Python's rules: / gives a float, // and % round towards minus infinity, bools
// are integers, + and * work on strings and lists. Integers are 64 bits wide; beyond that is an
// error.
#include <cmath>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"

namespace nanovllm::jinja {

namespace {

[[noreturn]] void unsupported(const std::string& op, const Value& a, const Value& b) {
  throw Failure("unsupported operand type(s) for " + op + ": '" + type_name(a) + "' and '" +
                type_name(b) + "'");
}

// By reference: the operation that sets it is written in the other argument.
Value checked(bool overflow, const int64_t& result) {
  if (overflow) throw Failure("integer result does not fit 64 bits");
  return Value::integer(result);
}

double float_mod(double a, double b) {
  double mod = std::fmod(a, b);
  if (mod != 0) {
    if ((b < 0) != (mod < 0)) mod += b;
  } else {
    mod = std::copysign(0.0, b);
  }
  return mod;
}

double float_floor_divide(double a, double b) {
  // As CPython: exact where the quotient is, floor otherwise.
  double mod = std::fmod(a, b);
  double quotient = (a - mod) / b;
  if (mod != 0 && (b < 0) != (mod < 0)) quotient -= 1.0;
  if (quotient == 0) return std::copysign(0.0, a / b);
  double floored = std::floor(quotient);
  if (quotient - floored > 0.5) floored += 1.0;
  return floored;
}

Value power(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral() && b.as_int() >= 0) {
    int64_t base = a.as_int(), result = 1;
    bool overflow = false, base_overflow = false;
    for (uint64_t n = static_cast<uint64_t>(b.as_int()); n; n >>= 1) {
      if (n & 1) overflow |= base_overflow || __builtin_mul_overflow(result, base, &result);
      if (n > 1) base_overflow |= __builtin_mul_overflow(base, base, &base);
    }
    return checked(overflow, result);
  }
  const double x = a.number(), y = b.number();
  if (x == 0 && y < 0) throw Failure("0.0 cannot be raised to a negative power");
  if (x < 0 && std::isfinite(x) && std::isfinite(y) && y != std::floor(y))
    throw Failure("complex numbers are not supported");
  const double result = std::pow(x, y);
  if (std::isinf(result) && std::isfinite(x) && std::isfinite(y))
    throw Failure("(34, 'Numerical result out of range')");
  return Value::real(result);
}

Value arithmetic(const std::string& op, const Value& a, const Value& b) {
  if (op == "**") return power(a, b);
  const bool integral = a.is_integral() && b.is_integral();
  if ((op == "/" || op == "//" || op == "%") && compare_numbers(b, Value::integer(0)) == 0)
    throw Failure(op == "/"  ? "division by zero"
                  : integral ? "integer division or modulo by zero"
                             : "float modulo");
  if (op == "/") {
    if (!integral) return Value::real(a.number() / b.number());
    return Value::real(static_cast<double>(static_cast<long double>(a.as_int()) /
                                           static_cast<long double>(b.as_int())));
  }
  if (!integral) {
    if (!(a.is(Kind::kFloat) || b.is(Kind::kFloat)))
      throw Failure("integers beyond 64 bits are not supported");
    const double x = a.number(), y = b.number();
    if (op == "+") return Value::real(x + y);
    if (op == "-") return Value::real(x - y);
    if (op == "*") return Value::real(x * y);
    return Value::real(op == "//" ? float_floor_divide(x, y) : float_mod(x, y));
  }
  const int64_t x = a.as_int(), y = b.as_int();
  int64_t result = 0;
  if (op == "+") return checked(__builtin_add_overflow(x, y, &result), result);
  if (op == "-") return checked(__builtin_sub_overflow(x, y, &result), result);
  if (op == "*") return checked(__builtin_mul_overflow(x, y, &result), result);
  if (y == -1)
    return op == "%" ? Value::integer(0)
                     : checked(__builtin_sub_overflow(int64_t{0}, x, &result), result);
  const bool round_down = x % y != 0 && (x < 0) != (y < 0);
  if (op == "//") return Value::integer(x / y - (round_down ? 1 : 0));
  return Value::integer(x % y + (round_down ? y : 0));
}

Value repeat(const Value& a, int64_t times) {
  times = std::max<int64_t>(times, 0);
  if (a.is_string()) {
    const std::string& text = a.text();
    if (!text.empty() && static_cast<uint64_t>(times) > kMaxStringBytes / text.size())
      throw Failure("a string is too large");
    std::string out;
    out.reserve(text.size() * static_cast<size_t>(times));
    for (int64_t i = 0; i < times && !text.empty(); ++i) out += text;
    return Value::string(std::move(out));
  }
  const Values& items = a.items();
  if (!items.empty() &&
      static_cast<uint64_t>(times) > kMaxStringBytes / sizeof(Value) / items.size())
    throw Failure("a list is too large");
  Values out;
  for (int64_t i = 0; i < times && !items.empty(); ++i)
    out.insert(out.end(), items.begin(), items.end());
  return a.is(Kind::kList) ? Value::list(std::move(out)) : Value::tuple(std::move(out));
}

bool repeatable(const Value& v) { return v.is_string() || v.is(Kind::kList) || v.is(Kind::kTuple); }

}  // namespace

Value binary_operation(const std::string& op, const Value& a, const Value& b) {
  if (op == "%" && a.is_string()) return Value::string(percent_format(a.text(), b));
  if (a.is_undefined()) a.fail_undefined();
  if (b.is_undefined()) b.fail_undefined();
  if (a.is_number() && b.is_number()) return arithmetic(op, a, b);
  if (op == "+") {
    if (a.is_string() && b.is_string()) {
      if (a.text().size() + b.text().size() > kMaxStringBytes)
        throw Failure("a string is too large");
      if (!a.is_markup() && !b.is_markup()) return Value::string(a.text() + b.text());
      return Value::markup((a.is_markup() ? a.text() : escape_html(a.text())) +
                           (b.is_markup() ? b.text() : escape_html(b.text())));
    }
    if (a.kind() == b.kind() && (a.is(Kind::kList) || a.is(Kind::kTuple))) {
      if (a.items().size() + b.items().size() > kMaxStringBytes / sizeof(Value))
        throw Failure("a list is too large");
      Values out = a.items();
      out.insert(out.end(), b.items().begin(), b.items().end());
      return a.is(Kind::kList) ? Value::list(std::move(out)) : Value::tuple(std::move(out));
    }
  }
  if (op == "*" && repeatable(a) && b.is_integral()) return repeat(a, b.as_int());
  if (op == "*" && repeatable(b) && a.is_integral()) return repeat(b, a.as_int());
  unsupported(op, a, b);
}

Value unary_operation(const std::string& op, const Value& v) {
  if (v.is_undefined()) v.fail_undefined();
  if (v.is(Kind::kFloat)) return op == "-" ? Value::real(-v.as_real()) : v;
  if (v.is(Kind::kBigInt)) {
    if (op == "+") return v;
    return v.text()[0] == '-' ? Value::big_integer(v.text().substr(1))
                              : Value::big_integer("-" + v.text());
  }
  if (!v.is_integral())
    throw Failure("bad operand type for unary " + op + ": '" + type_name(v) + "'");
  if (op == "+") return Value::integer(v.as_int());
  int64_t result = 0;
  return checked(__builtin_sub_overflow(int64_t{0}, v.as_int(), &result), result);
}

}  // namespace nanovllm::jinja
