#include "tokenizer/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

constexpr size_t kSmallDict = 12;  // up to here a scan beats the index

void check_size(uint32_t depth, uint64_t weight) {
  if (depth > kMaxValueDepth) throw Failure("a value is nested too deeply");
  if (weight > kMaxValueBytes) throw Failure("a value is too large");
}

}  // namespace

Value Object::call(Interpreter&, Args&) {
  throw Failure(std::string("'") + type_name() + "' object is not callable");
}

Value Value::big_integer(std::string digits) {
  Value v(Kind::kBigInt);
  v.shared_ = std::make_shared<const std::string>(std::move(digits));
  return v;
}

Value Value::string(std::string text) {
  if (text.size() > kMaxStringBytes) throw Failure("a string is too large");
  Value v(Kind::kString);
  v.shared_ = std::make_shared<const std::string>(std::move(text));
  return v;
}

Value Value::sequence(Kind kind, Values items, const char* view) {
  auto sequence = std::make_shared<Sequence>();
  sequence->weight = 16;
  for (const Value& item : items) {
    sequence->depth = std::max(sequence->depth, item.depth() + 1);
    sequence->weight += item.weight();
  }
  check_size(sequence->depth, sequence->weight);
  sequence->items = std::move(items);
  sequence->view = view;
  Value v(kind);
  v.shared_ = std::move(sequence);
  return v;
}

Value Value::range(Range r) {
  Value v(Kind::kRange);
  v.shared_ = std::make_shared<const Range>(r);
  return v;
}

Value Value::dict(std::vector<std::pair<Value, Value>> items) {
  auto dict = std::make_shared<Dict>();
  dict->weight = 16;
  dict->items.reserve(items.size());
  const bool indexed = items.size() > kSmallDict;
  for (auto& [key, value] : items) {
    const size_t h = hash(key);
    if (const Value* old = dict->find(key)) {
      *const_cast<Value*>(old) = std::move(value);
      continue;
    }
    if (indexed) dict->index.emplace(h, static_cast<uint32_t>(dict->items.size()));
    dict->items.emplace_back(std::move(key), std::move(value));
  }
  for (const auto& [key, value] : dict->items) {
    dict->depth = std::max({dict->depth, key.depth() + 1, value.depth() + 1});
    dict->weight += key.weight() + value.weight();
  }
  check_size(dict->depth, dict->weight);
  Value v(Kind::kDict);
  v.shared_ = std::move(dict);
  return v;
}

const Value* Dict::find(const Value& key) const {
  const size_t h = hash(key);
  if (index.empty()) {
    for (const auto& [k, v] : items)
      if (equal(k, key)) return &v;
    return nullptr;
  }
  for (auto [it, end] = index.equal_range(h); it != end; ++it)
    if (equal(items[it->second].first, key)) return &items[it->second].second;
  return nullptr;
}

const Value* Dict::find(std::string_view key) const {
  if (index.empty()) {
    for (const auto& [k, v] : items)
      if (k.is_string() && k.text() == key) return &v;
    return nullptr;
  }
  return find(Value::string(std::string(key)));
}

Value Value::generator(const char* name, const Value& source, std::function<bool(Value&)> next) {
  auto generator = std::make_shared<Generator>();
  generator->name = name;
  generator->depth = source.depth() + 1;
  // Each generator over another costs stack when the outermost is asked for its next item.
  if (source.is(Kind::kGenerator) && generator->depth > 32)
    throw Failure("generators are nested too deeply");
  check_size(generator->depth, 0);
  generator->next = std::move(next);
  Value v(Kind::kGenerator);
  v.shared_ = std::move(generator);
  return v;
}

Value Value::function(std::string name, NativeFunction fn, Value self) {
  check_size(self.depth() + 1, 0);
  Value v(Kind::kFunction);
  v.shared_ = std::make_shared<const Function>(Function{std::move(name), fn, std::move(self)});
  return v;
}

Value Value::undefined(std::string why) {
  Value v;
  v.shared_ = std::make_shared<const std::string>(std::move(why));
  return v;
}

void Value::fail_undefined() const { throw Failure(shared_ ? text() : "value is undefined"); }

double Value::number() const {
  switch (kind_) {
    case Kind::kFloat:
      return real_;
    case Kind::kBigInt:
      return std::strtod(text().c_str(), nullptr);
    default:
      return static_cast<double>(int_);
  }
}

uint32_t Value::depth() const {
  switch (kind_) {
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
      return static_cast<const Sequence*>(shared_.get())->depth;
    case Kind::kDict:
      return dict().depth;
    case Kind::kGenerator:
      return generator().depth;
    case Kind::kFunction:
      return function().self.depth() + 1;
    default:
      return 0;
  }
}

uint64_t Value::weight() const {
  switch (kind_) {
    case Kind::kString:
    case Kind::kBigInt:
      return 16 + text().size();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
      return static_cast<const Sequence*>(shared_.get())->weight;
    case Kind::kDict:
      return dict().weight;
    default:
      return 16;
  }
}

std::vector<const Value*> Args::bind(const char* function, std::initializer_list<const char*> names,
                                     size_t required) const {
  std::vector<const Value*> bound(names.size(), nullptr);
  const std::string call = std::string(function) + "()";
  if (positional.size() > names.size()) throw Failure(call + " got too many arguments");
  for (size_t i = 0; i < positional.size(); ++i) bound[i] = &positional[i];
  for (const auto& [name, value] : keywords) {
    size_t i = 0;
    for (const char* candidate : names) {
      if (name == candidate) break;
      ++i;
    }
    if (i == names.size())
      throw Failure(call + " got an unexpected keyword argument '" + name + "'");
    if (bound[i]) throw Failure(call + " got multiple values for argument '" + name + "'");
    bound[i] = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!bound[i]) throw Failure(call + " missing required argument '" + names.begin()[i] + "'");
  return bound;
}

const Value* Args::keyword(std::string_view name) const {
  for (const auto& [key, value] : keywords)
    if (key == name) return &value;
  return nullptr;
}

bool is_iterable(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
    case Kind::kRange:
    case Kind::kDict:
    case Kind::kGenerator:
      return true;
    default:
      return false;
  }
}

Iterator::Iterator(const Value& iterable) : source_(iterable) {
  if (!is_iterable(iterable))
    throw Failure(std::string("'") + type_name(iterable) + "' object is not iterable");
}

bool Iterator::next(Value& out) {
  switch (source_.kind()) {
    case Kind::kString: {
      const std::string& text = source_.text();
      if (position_ >= text.size()) return false;
      const size_t start = position_;
      decode_at(text, position_);
      out = Value::string(text.substr(start, position_ - start));
      return true;
    }
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
      if (position_ >= source_.items().size()) return false;
      out = source_.items()[position_++];
      return true;
    case Kind::kRange: {
      const Range& r = source_.range();
      if (static_cast<int64_t>(position_) >= r.size) return false;
      out = Value::integer(r.start + static_cast<int64_t>(position_++) * r.step);
      return true;
    }
    case Kind::kDict:
      if (position_ >= source_.dict().items.size()) return false;
      out = source_.dict().items[position_++].first;
      return true;
    case Kind::kGenerator:
      return source_.generator().next(out);
    default:
      return false;
  }
}

bool truthy(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return v.as_int() != 0;
    case Kind::kFloat:
      return v.as_real() != 0;
    case Kind::kString:
      return !v.text().empty();
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
      return !v.items().empty();
    case Kind::kRange:
      return v.range().size != 0;
    case Kind::kDict:
      return !v.dict().items.empty();
    case Kind::kObject: {
      int64_t n = 1;
      return !v.object()->length(n) || n != 0;
    }
    default:
      return true;
  }
}

int compare_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral())
    return (a.as_int() > b.as_int()) - (a.as_int() < b.as_int());
  if (a.is(Kind::kBigInt) && b.is(Kind::kBigInt) && a.text() == b.text()) return 0;
  // long double holds every int64 and every double exactly, as Python compares them.
  auto wide = [](const Value& v) -> long double {
    if (v.is_integral()) return static_cast<long double>(v.as_int());
    return v.is(Kind::kBigInt) ? std::strtold(v.text().c_str(), nullptr)
                               : static_cast<long double>(v.as_real());
  };
  const long double x = wide(a), y = wide(b);
  if (std::isnan(x) || std::isnan(y)) return 2;
  return (x > y) - (x < y);
}

bool same_object(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kNone:
      return true;
    case Kind::kBool:
    case Kind::kInt:
      return a.as_int() == b.as_int();
    case Kind::kFloat:
      return false;
    case Kind::kString:
      return a.text() == b.text();  // Python interns most of what a template can compare
    case Kind::kTuple:
      return a.identity() == b.identity() || (a.items().empty() && b.items().empty());
    default:
      return a.identity() == b.identity();
  }
}

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kString:
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple: {
      if (a.identity() == b.identity()) return true;
      const Values &x = a.items(), &y = b.items();
      return x.size() == y.size() &&
             std::equal(x.begin(), x.end(), y.begin(),
                        [](const Value& p, const Value& q) { return equal(p, q); });
    }
    case Kind::kRange: {
      const Range &x = a.range(), &y = b.range();
      return x.size == y.size &&
             (x.size == 0 || (x.start == y.start && (x.size == 1 || x.step == y.step)));
    }
    case Kind::kDict: {
      if (a.identity() == b.identity()) return true;
      const Dict &x = a.dict(), &y = b.dict();
      if (x.items.size() != y.items.size()) return false;
      for (const auto& [key, value] : x.items) {
        const Value* other = y.find(key);
        if (!other || !equal(value, *other)) return false;
      }
      return true;
    }
    case Kind::kView: {
      if (a.identity() == b.identity()) return true;
      // Keys and items compare as sets, values by identity.
      if (std::strcmp(a.view_name(), "dict_values") == 0 || a.items().size() != b.items().size())
        return false;
      for (const Value& item : a.items())
        if (!contains(b, item)) return false;
      return true;
    }
    case Kind::kFunction:
      return a.function().fn == b.function().fn &&
             same_object(a.function().self, b.function().self);
    default:
      return a.identity() == b.identity();
  }
}

bool less(const Value& a, const Value& b, const char* op) {
  if (a.is_undefined()) a.fail_undefined();
  if (b.is_undefined()) b.fail_undefined();
  if (a.is_number() && b.is_number()) return compare_numbers(a, b) == -1;
  // Bytes of UTF-8 order as code points do.
  if (a.is_string() && b.is_string()) return a.text() < b.text();
  if (a.kind() == b.kind() && (a.is(Kind::kList) || a.is(Kind::kTuple))) {
    const Values &x = a.items(), &y = b.items();
    for (size_t i = 0; i < x.size() && i < y.size(); ++i)
      if (!equal(x[i], y[i])) return less(x[i], y[i], op);
    return x.size() < y.size();
  }
  throw Failure(std::string("'") + op + "' not supported between instances of '" + type_name(a) +
                "' and '" + type_name(b) + "'");
}

size_t hash(const Value& v) {
  switch (v.kind()) {
    case Kind::kBool:
    case Kind::kInt:
      return std::hash<double>()(static_cast<double>(v.as_int()));
    case Kind::kFloat:
      return std::hash<double>()(v.as_real());
    case Kind::kBigInt:
      return std::hash<double>()(v.number());
    case Kind::kString:
      return std::hash<std::string>()(v.text());
    case Kind::kTuple: {
      size_t h = 1;
      for (const Value& item : v.items()) h = h * 1000003 + hash(item);
      return h;
    }
    case Kind::kRange:
      return static_cast<size_t>(v.range().size);
    case Kind::kUndefined:
    case Kind::kNone:
      return static_cast<size_t>(v.kind());
    case Kind::kList:
    case Kind::kDict:
    case Kind::kView:
      throw Failure(std::string("unhashable type: '") + type_name(v) + "'");
    default:
      return std::hash<const void*>()(v.identity());
  }
}

bool contains(const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string())
        throw Failure(std::string("'in <string>' requires string as left operand, not ") +
                      type_name(item));
      return item.text().empty() || memmem(container.text().data(), container.text().size(),
                                           item.text().data(), item.text().size()) != nullptr;
    case Kind::kDict:
      return container.dict().find(item) != nullptr;
    default: {
      if (!is_iterable(container))
        throw Failure(std::string("argument of type '") + type_name(container) +
                      "' is not iterable");
      Iterator it(container);
      for (Value v; it.next(v);)
        if (equal(v, item)) return true;
      return false;
    }
  }
}

int64_t length(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kString:
      return num_code_points(v.text());
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView:
      return static_cast<int64_t>(v.items().size());
    case Kind::kRange:
      return v.range().size;
    case Kind::kDict:
      return static_cast<int64_t>(v.dict().items.size());
    case Kind::kObject: {
      int64_t n = 0;
      if (v.object()->length(n)) return n;
      [[fallthrough]];
    }
    default:
      throw Failure(std::string("object of type '") + type_name(v) + "' has no len()");
  }
}

Values to_vector(const Value& iterable) {
  if (iterable.is_sequence()) return iterable.items();
  Values out;
  Iterator it(iterable);
  for (Value v; it.next(v);) out.push_back(std::move(v));
  return out;
}

const char* type_name(const Value& v) {
  switch (v.kind()) {
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
    case Kind::kBigInt:
      return "int";
    case Kind::kFloat:
      return "float";
    case Kind::kString:
      return "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kView:
      return v.view_name();
    case Kind::kRange:
      return "range";
    case Kind::kDict:
      return "dict";
    case Kind::kGenerator:
      return v.generator().name;
    case Kind::kFunction:
      return "function";
    case Kind::kObject:
      return v.object()->type_name();
  }
  return "object";
}

}  // namespace nanovllm::jinja
