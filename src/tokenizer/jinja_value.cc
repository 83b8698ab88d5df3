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
