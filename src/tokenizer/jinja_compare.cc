// How values compare, as Python's do: truth, order, equality, hashes, membership.
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "tokenizer/jinja_value.h"

namespace nanovllm::jinja {

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

}  // namespace nanovllm::jinja
