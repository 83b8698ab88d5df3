// Filters on sequences and mappings.
#include <algorithm>
#include <random>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

// The value that an attribute path ("address.city", 0) leads to, each part by the rules of
// object[part].
class AttributePath {
 public:
  AttributePath() = default;
  explicit AttributePath(const Value& path, Value otherwise = Value())
      : otherwise_(std::move(otherwise)) {
    if (path.is_none()) return;
    if (!path.is_string()) {
      parts_.push_back(path);
      return;
    }
    const std::string& text = path.text();
    for (size_t start = 0;;) {
      const size_t dot = std::min(text.find('.', start), text.size());
      const std::string part = text.substr(start, dot - start);
      const bool digits =
          !part.empty() && part.size() < 19 && part.find_first_not_of("0123456789") == part.npos;
      parts_.push_back(digits ? Value::integer(std::stoll(part)) : Value::string(part));
      if (dot == text.size()) break;
      start = dot + 1;
    }
  }

  Value operator()(Interpreter& interpreter, Value item) const {
    for (const Value& part : parts_) {
      item = interpreter.get_item(item, part);
      if (item.is_undefined() && !otherwise_.is_undefined() && !otherwise_.is_none())
        item = otherwise_;
    }
    return item;
  }

 private:
  std::vector<Value> parts_;
  Value otherwise_;
};

Value fold_case(Value v, bool fold) {
  return fold && v.is_string() ? Value::string(lower(v.text())) : v;
}

bool flag(const Value* v, bool otherwise = false) { return v ? truthy(*v) : otherwise; }

Value or_none(const Value* v) { return v ? *v : Value::none(); }

// A generator over items that are worked out when the first of them is asked for.
Value deferred(const Value& source, std::function<Values()> compute) {
  auto items = std::make_shared<Values>();
  auto position = std::make_shared<size_t>(0);
  auto pending = std::make_shared<std::function<Values()>>(std::move(compute));
  return Value::generator("generator", source, [=](Value& out) {
    if (*pending) {
      *items = (*pending)();
      *pending = nullptr;
    }
    if (*position >= items->size()) return false;
    out = (*items)[(*position)++];
    return true;
  });
}

struct Keyed {
  Value key, item;
};

Values sorted(std::vector<Keyed> keyed, bool reverse, Interpreter& interpreter) {
  std::stable_sort(keyed.begin(), keyed.end(), [&](const Keyed& a, const Keyed& b) {
    interpreter.charge(1);
    return reverse ? less(b.key, a.key) : less(a.key, b.key);
  });
  Values out;
  for (Keyed& k : keyed) out.push_back(std::move(k.item));
  return out;
}

Value sort(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("sort", {"reverse", "case_sensitive", "attribute"}, 0);
  const Value attribute = or_none(bound[2]);
  std::vector<AttributePath> paths;
  if (attribute.is_string()) {
    for (size_t start = 0; start <= attribute.text().size();) {
      const size_t comma = std::min(attribute.text().find(',', start), attribute.text().size());
      paths.emplace_back(Value::string(attribute.text().substr(start, comma - start)));
      start = comma + 1;
    }
  } else {
    paths.emplace_back(attribute);
  }
  std::vector<Keyed> keyed;
  for (Value& item : to_vector(self)) {
    Values keys;
    for (const AttributePath& path : paths)
      keys.push_back(fold_case(path(interpreter, item), !flag(bound[1])));
    keyed.push_back({Value::list(std::move(keys)), std::move(item)});
  }
  return Value::list(sorted(std::move(keyed), flag(bound[0]), interpreter));
}

Value dictsort(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("dictsort", {"case_sensitive", "by", "reverse"}, 0);
  const std::string by = bound[1] ? str(*bound[1]) : "key";
  if (by != "key" && by != "value")
    throw Failure("You can only sort by either \"key\" or \"value\"");
  if (self.is_undefined()) self.fail_undefined();
  if (!self.is(Kind::kDict)) throw Failure("dictsort needs a mapping");
  std::vector<Keyed> keyed;
  for (const auto& [key, value] : self.dict().items)
    keyed.push_back(
        {fold_case(by == "key" ? key : value, !flag(bound[0])), Value::tuple({key, value})});
  return Value::list(sorted(std::move(keyed), flag(bound[2]), interpreter));
}

Value groupby(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("groupby", {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(*bound[0], or_none(bound[1]));
  const bool fold = !flag(bound[2]);
  std::vector<Keyed> keyed;
  for (Value& item : to_vector(self)) {
    Value key = fold_case(path(interpreter, item), fold);
    keyed.push_back({key, Value::tuple({key, std::move(item)})});
  }
  Values groups, members;
  Value key;
  const auto close = [&] {
    if (members.empty()) return;
    const Value shown = fold ? path(interpreter, members[0]) : key;
    groups.push_back(Value::group(shown, Value::list(std::exchange(members, {}))));
  };
  for (const Value& pair : sorted(std::move(keyed), false, interpreter)) {
    if (members.empty() || !equal(pair.items()[0], key)) {
      close();
      key = pair.items()[0];
    }
    members.push_back(pair.items()[1]);
  }
  close();
  return Value::list(std::move(groups));
}

Value unique(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("unique", {"case_sensitive", "attribute"}, 0);
  const AttributePath path(or_none(bound[1]));
  const bool fold = !flag(bound[0]);
  return deferred(self, [&interpreter, self, path, fold] {
    std::unordered_multimap<size_t, Value> seen;
    Values out;
    for (Value& item : to_vector(self)) {
      interpreter.charge(1);
      const Value key = fold_case(path(interpreter, item), fold);
      const size_t h = hash(key);
      const auto [begin, end] = seen.equal_range(h);
      if (std::any_of(begin, end, [&](const auto& entry) { return equal(entry.second, key); }))
        continue;
      seen.emplace(h, key);
      out.push_back(std::move(item));
    }
    return out;
  });
}

Value extreme(Interpreter& interpreter, const Value& self, const Args& args, const char* name,
              bool largest) {
  const auto bound = args.bind(name, {"case_sensitive", "attribute"}, 0);
  const AttributePath path(or_none(bound[1]));
  Iterator it(self);
  Value best, best_key;
  bool some = false;
  for (Value item; it.next(item);) {
    interpreter.charge(1);
    const Value key = fold_case(path(interpreter, item), !flag(bound[0]));
    if (some && !(largest ? less(best_key, key, ">") : less(key, best_key))) continue;
    some = true;
    best = item;
    best_key = key;
  }
  return some ? best : Value::undefined("No aggregated item, sequence was empty.");
}

Value sum(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("sum", {"attribute", "start"}, 0);
  const AttributePath path(or_none(bound[0]));
  Value total = bound[1] ? *bound[1] : Value::integer(0);
  if (total.is_string()) throw Failure("sum() can't sum strings [use ''.join(seq) instead]");
  Iterator it(self);
  for (Value item; it.next(item);) {
    interpreter.charge(1 + (total.weight() >> 10));
    total = binary_operation("+", total, path(interpreter, item));
  }
  return total;
}

Value join(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("join", {"d", "attribute"}, 0);
  const std::string separator = bound[0] ? str(*bound[0]) : "";
  const AttributePath path(or_none(bound[1]));
  std::string out;
  bool first = true;
  Iterator it(self);
  for (Value item; it.next(item); first = false) {
    interpreter.charge(1);
    if (!first) out += separator;
    out += str(path(interpreter, item));
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  return Value::string(std::move(out));
}

Value first(Interpreter&, const Value& self, Args& args) {
  args.bind("first", {}, 0);
  Iterator it(self);
  Value item;
  return it.next(item) ? item : Value::undefined("No first item, sequence was empty.");
}

Value reversed(const Value& self) {
  if (self.is_string()) {
    std::u32string text = to_code_points(self.text());
    std::reverse(text.begin(), text.end());
    return Value::string(to_utf8(text));
  }
  return deferred(self, [self] {
    Values items = to_vector(self);
    std::reverse(items.begin(), items.end());
    return items;
  });
}

Value last(Interpreter&, const Value& self, Args& args) {
  args.bind("last", {}, 0);
  if (self.is(Kind::kGenerator)) throw Failure("'generator' object is not reversible");
  const Values items = to_vector(self);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value reverse(Interpreter&, const Value& self, Args& args) {
  args.bind("reverse", {}, 0);
  if (!is_iterable(self)) throw Failure("argument must be iterable");
  if (self.is(Kind::kGenerator)) {
    Values items = to_vector(self);
    std::reverse(items.begin(), items.end());
    return Value::list(std::move(items));
  }
  return reversed(self);
}

Value random(Interpreter&, const Value& self, Args& args) {
  args.bind("random", {}, 0);
  const Values items = to_vector(self);
  if (items.empty()) return Value::undefined("No random item, sequence was empty.");
  return items[std::random_device()() % items.size()];
}

Value batch(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("batch", {"linecount", "fill_with"}, 1);
  const int64_t size = to_index(*bound[0]);
  const Value fill = or_none(bound[1]);
  return deferred(self, [=] {
    Values out, line;
    for (Value& item : to_vector(self)) {
      if (static_cast<int64_t>(line.size()) == size)
        out.push_back(Value::list(std::exchange(line, {})));
      line.push_back(std::move(item));
    }
    if (line.empty()) return out;
    if (size > 1'000'000 && !fill.is_none()) throw Failure("a list is too large");
    while (!fill.is_none() && static_cast<int64_t>(line.size()) < size) line.push_back(fill);
    out.push_back(Value::list(std::move(line)));
    return out;
  });
}

Value slice(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("slice", {"slices", "fill_with"}, 1);
  const int64_t slices = to_index(*bound[0]);
  const Value fill = or_none(bound[1]);
  return deferred(self, [=] {
    const Values items = to_vector(self);
    const auto size = static_cast<int64_t>(items.size());
    if (slices == 0) throw Failure("integer division or modulo by zero");
    if (slices > 1'000'000) throw Failure("a list is too large");
    Values out;
    int64_t start = 0;
    for (int64_t i = 0; i < slices; ++i) {
      const bool extra = i < size % slices;
      const int64_t end = start + size / slices + (extra ? 1 : 0);
      Values part(items.begin() + start, items.begin() + end);
      if (!fill.is_none() && !extra) part.push_back(fill);
      out.push_back(Value::list(std::move(part)));
      start = end;
    }
    return out;
  });
}

Value map(Interpreter& interpreter, const Value& self, Args& args) {
  auto it = std::make_shared<std::unique_ptr<Iterator>>();
  auto path = std::make_shared<AttributePath>();
  const bool by_attribute = args.positional.empty() && args.keyword("attribute");
  return Value::generator("generator", self, [=, &interpreter](Value& out) {
    if (!truthy(self)) return false;
    if (!*it) {
      if (by_attribute) {
        for (const auto& [key, value] : args.keywords)
          if (key != "attribute" && key != "default")
            throw Failure("Unexpected keyword argument '" + key + "'");
        *path = AttributePath(*args.keyword("attribute"), or_none(args.keyword("default")));
      } else if (args.positional.empty()) {
        throw Failure("map requires a filter argument");
      }
      *it = std::make_unique<Iterator>(self);
    }
    Value item;
    if (!(*it)->next(item)) return false;
    interpreter.charge(1);
    if (by_attribute) {
      out = (*path)(interpreter, item);
      return true;
    }
    Args rest{Values(args.positional.begin() + 1, args.positional.end()), args.keywords};
    out = interpreter.call_filter(to_text(args.positional[0], "filter name"), item, rest);
    return true;
  });
}

// select, reject, selectattr, rejectattr.
template <bool wanted, bool by_attribute>
Value select(Interpreter& interpreter, const Value& self, Args& args) {
  auto it = std::make_shared<std::unique_ptr<Iterator>>();
  auto path = std::make_shared<AttributePath>();
  constexpr size_t kName = by_attribute ? 1 : 0;
  return Value::generator("generator", self, [=, &interpreter](Value& out) {
    if (!truthy(self)) return false;
    if (!*it) {
      if (by_attribute) {
        if (args.positional.empty()) throw Failure("Missing parameter for attribute name");
        *path = AttributePath(args.positional[0]);
      }
      *it = std::make_unique<Iterator>(self);
    }
    while ((*it)->next(out)) {
      interpreter.charge(1);
      const Value tested = by_attribute ? (*path)(interpreter, out) : out;
      bool passed;
      if (args.positional.size() > kName) {
        Args rest{Values(args.positional.begin() + kName + 1, args.positional.end()),
                  args.keywords};
        passed = interpreter.call_test(to_text(args.positional[kName], "test name"), tested, rest);
      } else {
        passed = truthy(tested);
      }
      if (passed == wanted) return true;
    }
    return false;
  });
}

Value items(Interpreter&, const Value& self, Args& args) {
  args.bind("items", {}, 0);
  return deferred(self, [self] {
    Values out;
    if (self.is_undefined()) return out;
    if (!self.is(Kind::kDict)) throw Failure("Can only get item pairs from a mapping.");
    for (const auto& [key, value] : self.dict().items) out.push_back(Value::tuple({key, value}));
    return out;
  });
}

Value list(Interpreter& interpreter, const Value& self, Args& args) {
  args.bind("list", {}, 0);
  if (self.is(Kind::kList)) return self;
  Values out;
  Iterator it(self);
  for (Value item; it.next(item);) {
    interpreter.charge(1);
    interpreter.charge_memory(sizeof(Value) + 16);
    out.push_back(std::move(item));
  }
  return Value::list(std::move(out));
}

Value default_value(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("default", {"default_value", "boolean"}, 0);
  if (self.is_undefined() || (flag(bound[1]) && !truthy(self)))
    return bound[0] ? *bound[0] : Value::string("");
  return self;
}

Value attribute(Interpreter& interpreter, const Value& self, Args& args) {
  const auto bound = args.bind("attr", {"name"}, 1);
  const std::string& name = to_text(*bound[0], "attribute name");
  // Never an item of a mapping.
  if (self.is(Kind::kDict)) {
    bool unsafe = false;
    const NativeFunction method = find_method(self, name, unsafe);
    return method ? Value::function(name, method, self)
                  : Value::undefined("'dict object' has no attribute '" + name + "'");
  }
  return interpreter.get_attribute(self, name);
}

}  // namespace

NativeFunction find_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> filters = {
      {"sort", sort},
      {"dictsort", dictsort},
      {"groupby", groupby},
      {"unique", unique},
      {"sum", sum},
      {"join", join},
      {"min", [](Interpreter& in, const Value& self,
                 Args& args) { return extreme(in, self, args, "min", false); }},
      {"max", [](Interpreter& in, const Value& self,
                 Args& args) { return extreme(in, self, args, "max", true); }},
      {"first", first},
      {"last", last},
      {"reverse", reverse},
      {"random", random},
      {"batch", batch},
      {"slice", slice},
      {"map", map},
      {"select", select<true, false>},
      {"reject", select<false, false>},
      {"selectattr", select<true, true>},
      {"rejectattr", select<false, true>},
      {"items", items},
      {"list", list},
      {"default", default_value},
      {"d", default_value},
      {"attr", attribute},
      {"length",
       [](Interpreter&, const Value& self, Args& args) {
         args.bind("length", {}, 0);
         return Value::integer(length(self));
       }},
      {"count",
       [](Interpreter&, const Value& self, Args& args) {
         args.bind("count", {}, 0);
         return Value::integer(length(self));
       }},
  };
  const auto it = filters.find(name);
  return it == filters.end() ? nullptr : it->second;
}

NativeFunction find_filter(std::string_view name) {
  for (const auto find : {find_text_filter, find_number_filter})
    if (const NativeFunction filter = find(name)) return filter;
  return find_sequence_filter(name);
}

}  // namespace nanovllm::jinja
