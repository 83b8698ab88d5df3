// Value: what a template expression evaluates to, with Python's meaning of truth, equality, order,
// str() and repr().
//
// Strings and containers are immutable and shared, so copying a Value is cheap and nothing can form
// a cycle. Each container knows how deeply it is nested and how large it would be written out
// (`weight`), and construction refuses what is too deep or too large: every recursive walk below is
// bounded by those two. Objects (namespaces, macros, loops) are owned by the interpreter of one
// render; a Value only points to them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace nanovllm::jinja {

// What jinja2 would raise. The interpreter adds the line.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr uint32_t kMaxValueDepth = 200;
inline constexpr uint64_t kMaxValueBytes = 256u << 20;
inline constexpr size_t kMaxStringBytes = 64u << 20;

class Interpreter;
class Value;
struct Args;
using Values = std::vector<Value>;

enum class Kind : uint8_t {
  kUndefined,
  kNone,
  kBool,
  kInt,
  kFloat,
  kBigInt,  // an integer beyond int64, kept as its decimal digits: printed and compared, never
            // computed with
  kString,
  kList,
  kTuple,
  kView,  // dict_keys, dict_values, dict_items
  kRange,
  kDict,
  kGenerator,  // evaluated as it is iterated, and only once
  kFunction,
  kObject
};

struct Sequence {
  Values items;
  const char* view = nullptr;  // "dict_keys" ... for kView; "group" for an item of groupby
  uint32_t depth = 1;
  uint64_t weight = 0;
};

struct Range {
  int64_t start, stop, step, size;
};

struct Dict;

struct Generator {
  std::function<bool(Value&)> next;  // false: exhausted
  const char* name = "generator";
  uint32_t depth = 1;
};

using NativeFunction = Value (*)(Interpreter&, const Value& self, Args& args);
struct Function;

// Mutable things with identity.
class Object {
 public:
  virtual ~Object() = default;
  virtual const char* type_name() const = 0;
  virtual bool attribute(std::string_view name, Value& out) = 0;
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter&, Args&);
  virtual bool length(int64_t&) { return false; }
};

class Value {
 public:
  Value() = default;  // undefined without a reason
  static Value none() { return Value(Kind::kNone); }
  static Value boolean(bool b) {
    Value v(Kind::kBool);
    v.int_ = b;
    return v;
  }
  static Value integer(int64_t i) {
    Value v(Kind::kInt);
    v.int_ = i;
    return v;
  }
  static Value real(double d) {
    Value v(Kind::kFloat);
    v.real_ = d;
    return v;
  }
  static Value big_integer(std::string digits);
  static Value string(std::string text);
  // Text marked as safe (markupsafe.Markup): what is added to it is HTML-escaped, even with
  // autoescape off.
  static Value markup(std::string text) {
    Value v = string(std::move(text));
    v.int_ = 1;
    return v;
  }
  bool is_markup() const { return kind_ == Kind::kString && int_ == 1; }
  static Value list(Values items) { return sequence(Kind::kList, std::move(items), nullptr); }
  static Value tuple(Values items) { return sequence(Kind::kTuple, std::move(items), nullptr); }
  static Value view(Values items, const char* name) {
    return sequence(Kind::kView, std::move(items), name);
  }
  // An item of groupby: a tuple whose parts are also called grouper and list.
  static Value group(Value grouper, Value list) {
    return sequence(Kind::kTuple, {std::move(grouper), std::move(list)}, "group");
  }
  static Value range(Range r);
  // Later values of equal keys replace earlier ones, in place. Throws for unhashable keys.
  static Value dict(std::vector<std::pair<Value, Value>> items);
  // source: what the generator reads from, for its nesting depth.
  static Value generator(const char* name, const Value& source, std::function<bool(Value&)> next);
  static Value function(std::string name, NativeFunction fn, Value self);
  static Value object(Object* object) {
    Value v(Kind::kObject);
    v.object_ = object;
    return v;
  }
  static Value undefined(std::string why);  // using it fails with this message

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_string() const { return kind_ == Kind::kString; }
  bool is_integral() const { return kind_ == Kind::kInt || kind_ == Kind::kBool; }
  bool is_number() const {
    return is_integral() || kind_ == Kind::kFloat || kind_ == Kind::kBigInt;
  }
  bool is_sequence() const {
    return kind_ == Kind::kList || kind_ == Kind::kTuple || kind_ == Kind::kView;
  }

  // Each is valid for its kind only.
  bool as_bool() const { return int_ != 0; }
  int64_t as_int() const { return int_; }
  double as_real() const { return real_; }
  double number() const;  // any number as a double
  const std::string& text() const {
    return *static_cast<const std::string*>(shared_.get());
  }  // strings, big integers
  const Values& items() const { return static_cast<const Sequence*>(shared_.get())->items; }
  const char* view_name() const { return static_cast<const Sequence*>(shared_.get())->view; }
  const Range& range() const { return *static_cast<const Range*>(shared_.get()); }
  const Dict& dict() const { return *static_cast<const Dict*>(shared_.get()); }
  Generator& generator() const {
    return *static_cast<Generator*>(const_cast<void*>(shared_.get()));
  }
  const Function& function() const { return *static_cast<const Function*>(shared_.get()); }
  Object* object() const { return object_; }
  const void* identity() const { return kind_ == Kind::kObject ? object_ : shared_.get(); }

  [[noreturn]] void fail_undefined() const;
  uint32_t depth() const;
  uint64_t weight() const;  // bytes this would take written out, roughly

 private:
  explicit Value(Kind kind) : kind_(kind), int_(0) {}
  static Value sequence(Kind kind, Values items, const char* view);

  Kind kind_ = Kind::kUndefined;
  union {
    int64_t int_ = 0;
    double real_;
    Object* object_;
  };
  std::shared_ptr<const void> shared_;
};

struct Dict {
  std::vector<std::pair<Value, Value>> items;  // in order of insertion
  uint32_t depth = 1;
  uint64_t weight = 0;
  const Value* find(const Value& key) const;  // null if absent; throws if the key is unhashable
  const Value* find(std::string_view key) const;

  std::unordered_multimap<size_t, uint32_t>
      index;  // hash -> position; only for dicts that are not small
};

struct Function {
  std::string name;
  NativeFunction fn;
  Value self;
};

struct Args {
  Values positional;
  std::vector<std::pair<std::string, Value>> keywords;

  // The arguments as Python binds them to these parameters; absent ones are null. Throws for a
  // missing required one, an unknown keyword, one too many.
  std::vector<const Value*> bind(const char* function, std::initializer_list<const char*> names,
                                 size_t required) const;
  const Value* keyword(std::string_view name) const;
};

// Walks what Python can iterate. Throws Failure for what it cannot.
class Iterator {
 public:
  explicit Iterator(const Value& iterable);
  bool next(Value& out);

 private:
  Value source_;
  size_t position_ = 0;
};

bool truthy(const Value& value);
bool equal(const Value& a, const Value& b);
bool less(const Value& a, const Value& b,
          const char* op = "<");                      // throws between types that have no order
int compare_numbers(const Value& a, const Value& b);  // -1, 0, 1; 2 if unordered (NaN)
size_t hash(const Value& value);                      // throws "unhashable type"
bool same_object(const Value& a, const Value& b);     // Python's `is`
bool contains(const Value& container, const Value& item);  // Python's `item in container`
bool is_iterable(const Value& value);
int64_t length(const Value& value);  // Python's len()
Values to_vector(const Value& iterable);
const char* type_name(const Value& value);  // Python's

std::string str(const Value& value);
std::string repr(const Value& value);
std::string float_repr(double value);
struct JsonStyle {
  bool ensure_ascii = false, sort_keys = false, pretty = false;
  std::string indent, item_separator = ", ", key_separator = ": ";
};
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace nanovllm::jinja
