// Expressions.
#include <algorithm>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

Value no_attribute(const Value& object, std::string_view name) {
  return Value::undefined("'" + std::string(type_name(object)) + " object' has no attribute '" +
                          std::string(name) + "'");
}

bool is_dunder(std::string_view name) {
  return name.size() > 4 && name.starts_with("__") && name.ends_with("__");
}

// Python's slice.indices(): start and number of items, for a sequence of this size.
struct SliceBounds {
  int64_t start, step, count;
};

SliceBounds slice_bounds(const Value& start, const Value& stop, const Value& step, int64_t size) {
  const auto bound = [](const Value& v, int64_t otherwise) {
    if (v.is_none()) return otherwise;
    if (!v.is_integral()) throw Failure("slice indices must be integers or None");
    return v.as_int();
  };
  const int64_t by = bound(step, 1);
  if (by == 0) throw Failure("slice step cannot be zero");
  const int64_t low = by > 0 ? 0 : -1, high = by > 0 ? size : size - 1;
  const auto clamp = [&](int64_t i) { return std::clamp(i < 0 ? i + size : i, low, high); };
  const int64_t from = start.is_none() ? (by > 0 ? low : high) : clamp(bound(start, 0));
  const int64_t to = stop.is_none() ? (by > 0 ? high : low) : clamp(bound(stop, 0));
  // No overflow: from and to lie within [-1, size].
  if (by > 0) return {from, by, to > from ? (to - from - 1) / by + 1 : 0};
  return {from, by, from > to ? (from - to - 1) / (by == INT64_MIN ? INT64_MAX : -by) + 1 : 0};
}

}  // namespace

Value Interpreter::evaluate(const Expr& expr) {
  Deeper deeper(*this);
  charge(1);
  switch (expr.kind) {
    case ExprKind::kConst:
      return expr.value;
    case ExprKind::kName:
    case ExprKind::kNamespaceRef:
      return evaluate_name(expr);
    case ExprKind::kTuple:
      return Value::tuple(evaluate_all(expr.items, 0));
    case ExprKind::kList:
      return Value::list(evaluate_all(expr.items, 0));
    case ExprKind::kDict:
      return evaluate_dict(expr);
    case ExprKind::kConditional:
      return evaluate_conditional(expr);
    case ExprKind::kOr: {
      Value left = evaluate(*expr.items[0]);
      return truthy(left) ? left : evaluate(*expr.items[1]);
    }
    case ExprKind::kAnd: {
      Value left = evaluate(*expr.items[0]);
      return truthy(left) ? evaluate(*expr.items[1]) : left;
    }
    case ExprKind::kNot:
      return Value::boolean(!truthy(evaluate(*expr.items[0])));
    case ExprKind::kCompare:
      return evaluate_compare(expr);
    case ExprKind::kConcat:
      return evaluate_concat(expr);
    case ExprKind::kBinary:
      return evaluate_binary(expr);
    case ExprKind::kUnary:
      return evaluate_unary(expr);
    case ExprKind::kAttribute:
      return get_attribute(evaluate(*expr.items[0]), *expr.attribute);
    case ExprKind::kItem:
      return evaluate_item(expr);
    case ExprKind::kSlice:
      throw Failure("slices are only supported alone between brackets");
    case ExprKind::kCall:
      return evaluate_call(expr, nullptr);
    case ExprKind::kFilter:
    case ExprKind::kTest:
      return evaluate_native(expr);
  }
  return Value();
}

Values Interpreter::evaluate_all(const std::vector<ExprPtr>& exprs, size_t first) {
  Values out;
  out.reserve(exprs.size() - first);
  for (size_t i = first; i < exprs.size(); ++i) out.push_back(evaluate(*exprs[i]));
  charge_memory(out.size() * sizeof(Value));
  return out;
}

Value Interpreter::evaluate_name(const Expr& expr) {
  for (Scope* scope = scope_; scope; scope = scope->parent) {
    if (const Value* found = scope->find(expr.name)) {
      if (found->is_undefined() && !found->identity())
        return Value::undefined("'" + *expr.name + "' is undefined");
      return *found;
    }
  }
  if (const NativeFunction fn = find_global(*expr.name))
    return Value::function(*expr.name, fn, Value());
  return Value::undefined("'" + *expr.name + "' is undefined");
}

Value Interpreter::evaluate_dict(const Expr& expr) {
  std::vector<std::pair<Value, Value>> items;
  for (size_t i = 0; i < expr.items.size(); i += 2) {
    Value key = evaluate(*expr.items[i]);
    items.emplace_back(std::move(key), evaluate(*expr.items[i + 1]));
  }
  charge_memory(items.size() * 2 * sizeof(Value));
  return Value::dict(std::move(items));
}

Value Interpreter::evaluate_conditional(const Expr& expr) {
  if (truthy(evaluate(*expr.items[0]))) return evaluate(*expr.items[1]);
  if (expr.items[2]) return evaluate(*expr.items[2]);
  return Value::undefined("the inline if-expression on line " + std::to_string(expr.line) +
                          " evaluated to false and no else section was defined.");
}

Value Interpreter::evaluate_compare(const Expr& expr) {
  Value left = evaluate(*expr.items[0]);
  bool result = true;
  for (size_t i = 0; result && i < expr.operators.size(); ++i) {
    const std::string& op = expr.operators[i];
    Value right = evaluate(*expr.items[i + 1]);
    charge(std::min(left.weight(), right.weight()) >> 10);
    if (op == "==")
      result = equal(left, right);
    else if (op == "!=")
      result = !equal(left, right);
    else if (op == "<")
      result = less(left, right, "<");
    else if (op == ">")
      result = less(right, left, ">");
    else if (op == "<=" || op == ">=") {
      const Value &a = op == "<=" ? left : right, &b = op == "<=" ? right : left;
      result = less(a, b, op.c_str()) || equal(a, b);
    } else {
      charge(right.weight() >> 10);
      result = contains(right, left) == (op == "in");
    }
    left = std::move(right);
  }
  return Value::boolean(result);
}

Value Interpreter::evaluate_concat(const Expr& expr) {
  std::string out;
  for (const ExprPtr& item : expr.items) {
    const Value value = evaluate(*item);
    charge(value.weight() >> 10);
    if (value.is_string())
      out += value.text();
    else
      out += str(value);
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  charge_memory(out.size());
  return Value::string(std::move(out));
}

Value Interpreter::evaluate_binary(const Expr& expr) {
  const Value left = evaluate(*expr.items[0]);
  const Value right = evaluate(*expr.items[1]);
  line_ = expr.line;
  Value result = binary_operation(expr.operators[0], left, right);
  charge(result.weight() >> 10);
  charge_memory(result.weight());
  return result;
}

Value Interpreter::evaluate_unary(const Expr& expr) {
  return unary_operation(expr.operators[0], evaluate(*expr.items[0]));
}

Value Interpreter::evaluate_item(const Expr& expr) {
  const Value object = evaluate(*expr.items[0]);
  // A lone slice goes straight to Python's indexing; anything else passes the environment's
  // getitem.
  if (expr.items[1]->kind == ExprKind::kSlice) return evaluate_slice(object, *expr.items[1]);
  return get_item(object, evaluate(*expr.items[1]));
}

Value Interpreter::evaluate_slice(const Value& object, const Expr& slice) {
  Value parts[3];
  for (int i = 0; i < 3; ++i) parts[i] = slice.items[i] ? evaluate(*slice.items[i]) : Value::none();
  line_ = slice.line;
  if (object.is_undefined()) object.fail_undefined();
  const auto bounds = [&](int64_t size) {
    return slice_bounds(parts[0], parts[1], parts[2], size);
  };
  Value result;
  if (object.is_string()) {
    const std::string& text = object.text();
    std::string out;
    if (is_ascii(text)) {
      const SliceBounds b = bounds(static_cast<int64_t>(text.size()));
      if (b.step == 1)
        out = text.substr(static_cast<size_t>(b.start), static_cast<size_t>(b.count));
      else
        for (int64_t i = 0; i < b.count; ++i)
          out += text[static_cast<size_t>(b.start + i * b.step)];
    } else {
      const std::u32string wide = to_code_points(text);
      const SliceBounds b = bounds(static_cast<int64_t>(wide.size()));
      for (int64_t i = 0; i < b.count; ++i)
        append_utf8(out, wide[static_cast<size_t>(b.start + i * b.step)]);
    }
    charge(text.size() >> 10);
    result = Value::string(std::move(out));
  } else if (object.is(Kind::kList) || object.is(Kind::kTuple)) {
    const Values& items = object.items();
    const SliceBounds b = bounds(static_cast<int64_t>(items.size()));
    Values out;
    for (int64_t i = 0; i < b.count; ++i)
      out.push_back(items[static_cast<size_t>(b.start + i * b.step)]);
    charge(out.size() >> 4);
    charge_memory(out.size() * sizeof(Value));
    return object.is(Kind::kList) ? Value::list(std::move(out)) : Value::tuple(std::move(out));
  } else if (object.is(Kind::kRange)) {
    const Range& r = object.range();
    const SliceBounds b = bounds(r.size);
    int64_t step = 0;
    if (__builtin_mul_overflow(r.step, b.step, &step)) throw Failure("range step is too large");
    const int64_t start = r.start + b.start * r.step;
    return Value::range({start, start + b.count * step, step, b.count});
  } else {
    throw Failure(std::string("'") + type_name(object) + "' object is not subscriptable");
  }
  charge_memory(result.weight());
  return result;
}

Value Interpreter::get_item(const Value& object, const Value& index) {
  if (object.is_undefined()) object.fail_undefined();
  if (index.is_integral() && (object.is_string() || object.is(Kind::kList) ||
                              object.is(Kind::kTuple) || object.is(Kind::kRange))) {
    int64_t i = index.as_int();
    if (object.is_string()) {
      charge(object.text().size() >> 10);
      const std::string& text = object.text();
      const int64_t size = num_code_points(text);
      if (i < 0) i += size;
      if (i >= 0 && i < size) {
        size_t at = is_ascii(text) ? static_cast<size_t>(i) : byte_offset(text, i);
        const size_t start = at;
        decode_at(text, at);
        return Value::string(text.substr(start, at - start));
      }
    } else {
      const int64_t size = length(object);
      if (i < 0) i += size;
      if (i >= 0 && i < size) {
        if (object.is(Kind::kRange))
          return Value::integer(object.range().start + i * object.range().step);
        return object.items()[static_cast<size_t>(i)];
      }
    }
    return Value::undefined(std::string(type_name(object)) + " object has no element " +
                            std::to_string(index.as_int()));
  }
  if (object.is(Kind::kDict) && !index.is(Kind::kList) && !index.is(Kind::kDict) &&
      !index.is(Kind::kView)) {
    if (const Value* found = object.dict().find(index)) return *found;
  }
  if (!index.is_string())
    return Value::undefined(std::string(type_name(object)) + " object has no element " +
                            repr(index));
  if (object.is(Kind::kObject)) {
    Value out;
    if (index.text().starts_with("_") || !object.object()->attribute(index.text(), out))
      return no_attribute(object, index.text());
    return out;
  }
  bool unsafe = false;
  if (const NativeFunction method = find_method(object, index.text(), unsafe))
    return Value::function(index.text(), method, object);
  return no_attribute(object, index.text());
}

Value Interpreter::get_attribute(const Value& object, std::string_view name) {
  if (object.is_undefined()) object.fail_undefined();
  bool unsafe = is_dunder(name);
  if (unsafe)
    return Value::undefined("access to attribute '" + std::string(name) + "' of '" +
                            type_name(object) + "' object is unsafe.");
  if (object.is(Kind::kObject)) {
    Value out;
    if (name.starts_with("_") || !object.object()->attribute(name, out))
      return no_attribute(object, name);
    return out;
  }
  if (const NativeFunction method = find_method(object, name, unsafe))
    return Value::function(std::string(name), method, object);
  if (unsafe)
    return Value::undefined("access to attribute '" + std::string(name) + "' of '" +
                            type_name(object) + "' object is unsafe.");
  if (object.is(Kind::kDict)) {
    if (const Value* found = object.dict().find(name)) return *found;
  } else if (object.is(Kind::kTuple) && object.view_name()) {  // an item of groupby
    if (name == "grouper") return object.items()[0];
    if (name == "list") return object.items()[1];
  }
  return no_attribute(object, name);
}

void Interpreter::evaluate_arguments(const Expr& expr, Args& args) {
  args.positional = evaluate_all(expr.items, 1);
  for (const auto& [name, value] : expr.keywords)
    args.keywords.emplace_back(name, evaluate(*value));
  if (expr.star_args)
    for (Value& value : to_vector(evaluate(*expr.star_args)))
      args.positional.push_back(std::move(value));
  if (expr.star_keywords) {
    const Value more = evaluate(*expr.star_keywords);
    if (!more.is(Kind::kDict)) throw Failure("argument after ** must be a mapping");
    for (const auto& [key, value] : more.dict().items) {
      if (!key.is_string()) throw Failure("keywords must be strings");
      if (args.keyword(key.text()))
        throw Failure("got multiple values for keyword argument '" + key.text() + "'");
      args.keywords.emplace_back(key.text(), value);
    }
  }
}

Value Interpreter::evaluate_call(const Expr& expr, const Value* caller) {
  const Expr& callee = *expr.items[0];
  Value target, self;
  NativeFunction method = nullptr;
  if (callee.kind == ExprKind::kAttribute) {
    // object.method(...), without making a bound method in between.
    self = evaluate(*callee.items[0]);
    bool unsafe = false;
    if (!self.is_undefined()) method = find_method(self, *callee.attribute, unsafe);
    if (!method) target = get_attribute(self, *callee.attribute);
  } else {
    target = evaluate(callee);
  }
  Args args;
  evaluate_arguments(expr, args);
  if (caller) args.keywords.emplace_back("caller", *caller);
  line_ = expr.line;
  return method ? invoke(method, self, args) : call(target, args);
}

Value Interpreter::call(const Value& callee, Args& args) {
  if (callee.is_undefined()) callee.fail_undefined();
  if (callee.is(Kind::kFunction)) return invoke(callee.function().fn, callee.function().self, args);
  if (callee.is(Kind::kObject) && callee.object()->callable())
    return callee.object()->call(*this, args);
  throw Failure(std::string("'") + type_name(callee) + "' object is not callable");
}

Value Interpreter::invoke(NativeFunction function, const Value& self, Args& args) {
  uint64_t weight = self.weight();
  for (const Value& value : args.positional) weight += value.weight();
  charge(weight >> 10);
  Value result = function(*this, self, args);
  charge(result.weight() >> 10);
  if (result.is_string() || result.is_sequence() || result.is(Kind::kDict)) {
    const uint64_t own = result.is_string() ? result.text().size()
                                            : static_cast<uint64_t>(length(result)) * sizeof(Value);
    charge_memory(own);
  }
  return result;
}

Value Interpreter::evaluate_native(const Expr& expr) {
  const Value input = expr.items[0] ? evaluate(*expr.items[0]) : *block_input_;
  const bool is_test = expr.kind == ExprKind::kTest;
  if (!expr.native)
    throw Failure(std::string(is_test ? "No test" : "No filter") + " named '" + *expr.name + "'.");
  Args args;
  evaluate_arguments(expr, args);
  line_ = expr.line;
  return invoke(expr.native, input, args);
}

Value Interpreter::call_filter(const std::string& name, const Value& input, Args& args) {
  const NativeFunction filter = find_filter(name);
  if (!filter) throw Failure("No filter named '" + name + "'.");
  return invoke(filter, input, args);
}

bool Interpreter::call_test(const std::string& name, const Value& input, Args& args) {
  const NativeFunction test = find_test(name);
  if (!test) throw Failure("No test named '" + name + "'.");
  return truthy(invoke(test, input, args));
}

}  // namespace nanovllm::jinja
