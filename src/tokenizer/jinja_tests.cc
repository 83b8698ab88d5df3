// Tests: `value is name(args)`.
#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

template <bool (*predicate)(const Value&)>
Value unary(Interpreter&, const Value& self, Args& args) {
  args.bind("test", {}, 0);
  return Value::boolean(predicate(self));
}

template <bool (*predicate)(const Value&, const Value&)>
Value binary(Interpreter&, const Value& self, Args& args) {
  if (!args.keywords.empty()) throw Failure("a test takes no keyword arguments");
  return Value::boolean(predicate(self, *args.bind("test", {"other"}, 1)[0]));
}

bool odd(const Value& v) {
  return equal(binary_operation("%", v, Value::integer(2)), Value::integer(1));
}
bool even(const Value& v) {
  return equal(binary_operation("%", v, Value::integer(2)), Value::integer(0));
}
bool divisible(const Value& v, const Value& divisor) {
  return equal(binary_operation("%", v, divisor), Value::integer(0));
}
bool defined(const Value& v) { return !v.is_undefined(); }
bool undefined(const Value& v) { return v.is_undefined(); }
bool none(const Value& v) { return v.is_none(); }
bool boolean(const Value& v) { return v.is(Kind::kBool); }
bool is_true(const Value& v) { return v.is(Kind::kBool) && v.as_bool(); }
bool is_false(const Value& v) { return v.is(Kind::kBool) && !v.as_bool(); }
bool integer(const Value& v) { return v.is(Kind::kInt) || v.is(Kind::kBigInt); }
bool real(const Value& v) { return v.is(Kind::kFloat); }
bool number(const Value& v) { return v.is_number(); }
bool string(const Value& v) { return v.is_string(); }
bool mapping(const Value& v) { return v.is(Kind::kDict); }
bool escaped(const Value& v) { return v.is_markup(); }
bool callable(const Value& v) {
  // An undefined value has a __call__, which fails.
  return v.is(Kind::kFunction) || v.is_undefined() ||
         (v.is(Kind::kObject) && v.object()->callable());
}

bool sequence(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
    case Kind::kDict:
      return true;
    default:
      return false;
  }
}

bool ne(const Value& a, const Value& b) { return !equal(a, b); }
bool lt(const Value& a, const Value& b) { return less(a, b, "<"); }
bool gt(const Value& a, const Value& b) { return less(b, a, ">"); }
bool le(const Value& a, const Value& b) { return less(a, b, "<=") || equal(a, b); }
bool ge(const Value& a, const Value& b) { return less(b, a, ">=") || equal(a, b); }
bool in(const Value& a, const Value& b) { return contains(b, a); }

template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
bool cased(const Value& v) {
  const std::string text = str(v);
  bool some = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    if (other(c) || is_title(c)) return false;
    some |= wanted(c);
  }
  return some;
}

bool is_filter(const Value& v) { return v.is_string() && find_filter(v.text()) != nullptr; }
bool is_test(const Value& v) { return v.is_string() && find_test(v.text()) != nullptr; }

}  // namespace

NativeFunction find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> tests = {
      {"odd", unary<odd>},
      {"even", unary<even>},
      {"divisibleby", binary<divisible>},
      {"defined", unary<defined>},
      {"undefined", unary<undefined>},
      {"filter", unary<is_filter>},
      {"test", unary<is_test>},
      {"none", unary<none>},
      {"boolean", unary<boolean>},
      {"false", unary<is_false>},
      {"true", unary<is_true>},
      {"integer", unary<integer>},
      {"float", unary<real>},
      {"lower", unary<cased<is_lower, is_upper>>},
      {"upper", unary<cased<is_upper, is_lower>>},
      {"string", unary<string>},
      {"mapping", unary<mapping>},
      {"number", unary<number>},
      {"sequence", unary<sequence>},
      {"iterable", unary<is_iterable>},
      {"callable", unary<callable>},
      {"sameas", binary<same_object>},
      {"escaped", unary<escaped>},
      {"in", binary<in>},
      {"==", binary<equal>},
      {"eq", binary<equal>},
      {"equalto", binary<equal>},
      {"!=", binary<ne>},
      {"ne", binary<ne>},
      {">", binary<gt>},
      {"gt", binary<gt>},
      {"greaterthan", binary<gt>},
      {">=", binary<ge>},
      {"ge", binary<ge>},
      {"<", binary<lt>},
      {"lt", binary<lt>},
      {"lessthan", binary<lt>},
      {"<=", binary<le>},
      {"le", binary<le>},
  };
  const auto it = tests.find(name);
  return it == tests.end() ? nullptr : it->second;
}

}  // namespace nanovllm::jinja
