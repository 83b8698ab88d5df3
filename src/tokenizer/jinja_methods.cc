// The methods of list, tuple and dict, and what several parts of the library share.
#include <algorithm>
#include <cstring>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

Value dict_view(const Value& self, const Args& args, const char* name, int part) {
  args.bind(name, {}, 0);
  Values out;
  for (const auto& [key, value] : self.dict().items)
    out.push_back(part == 0 ? key : part == 1 ? value : Value::tuple({key, value}));
  return Value::view(std::move(out), name);
}

Value dict_get(Interpreter&, const Value& self, Args& args) {
  if (!args.keywords.empty()) throw Failure("dict.get() takes no keyword arguments");
  const auto bound = args.bind("get", {"key", "default"}, 1);
  if (const Value* found = self.dict().find(*bound[0])) return *found;
  return bound[1] ? *bound[1] : Value::none();
}

Value sequence_count(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("count", {"value"}, 1);
  int64_t n = 0;
  for (const Value& item : self.items()) n += equal(item, *bound[0]);
  return Value::integer(n);
}

Value sequence_index(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("index", {"value", "start", "stop"}, 1);
  const auto size = static_cast<int64_t>(self.items().size());
  const auto clamp = [&](int64_t i) { return std::clamp<int64_t>(i < 0 ? i + size : i, 0, size); };
  const int64_t start = bound[1] ? clamp(to_index(*bound[1])) : 0,
                stop = bound[2] ? clamp(to_index(*bound[2])) : size;
  for (int64_t i = start; i < stop; ++i)
    if (equal(self.items()[static_cast<size_t>(i)], *bound[0])) return Value::integer(i);
  throw Failure(repr(*bound[0]) + " is not in " + type_name(self));
}

// A range takes one argument and is walked, since it has no list of items.
Value range_count(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("count", {"value"}, 1);
  int64_t n = 0;
  Iterator items(self);
  for (Value item; items.next(item);) n += equal(item, *bound[0]);
  return Value::integer(n);
}

Value range_index(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("index", {"value"}, 1);
  Iterator items(self);
  int64_t i = 0;
  for (Value item; items.next(item); ++i)
    if (equal(item, *bound[0])) return Value::integer(i);
  throw Failure(repr(*bound[0]) + " is not in range");
}

Value same(Interpreter&, const Value& self, Args& args) {
  args.bind("copy", {}, 0);
  return self;  // values never change, so a copy is the thing itself
}

bool any(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

NativeFunction find_method(const Value& self, std::string_view name, bool& unsafe) {
  switch (self.kind()) {
    case Kind::kString:
      return find_string_method(name);
    case Kind::kDict:
      if (name == "items")
        return
            [](Interpreter&, const Value& v, Args& a) { return dict_view(v, a, "dict_items", 2); };
      if (name == "keys")
        return
            [](Interpreter&, const Value& v, Args& a) { return dict_view(v, a, "dict_keys", 0); };
      if (name == "values")
        return
            [](Interpreter&, const Value& v, Args& a) { return dict_view(v, a, "dict_values", 1); };
      if (name == "get") return dict_get;
      if (name == "copy") return same;
      unsafe = any(name, {"clear", "pop", "popitem", "setdefault", "update"});
      return nullptr;
    case Kind::kList:
      if (name == "copy") return same;
      unsafe =
          any(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
      [[fallthrough]];
    case Kind::kTuple:
      if (name == "count") return sequence_count;
      if (name == "index") return sequence_index;
      return nullptr;
    case Kind::kRange:
      if (name == "count") return range_count;
      if (name == "index") return range_index;
      return nullptr;
    default:
      return nullptr;
  }
}

int64_t to_index(const Value& v) {
  if (v.is_undefined()) v.fail_undefined();
  if (!v.is_integral())
    throw Failure(std::string("'") + type_name(v) + "' object cannot be interpreted as an integer");
  return v.as_int();
}

const std::string& to_text(const Value& v, const char* what) {
  if (v.is_string()) return v.text();
  throw Failure(std::string(what) + " must be str, not " + type_name(v));
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t start = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = i;
    const char32_t c = decode_at(text, i);
    if (!is_line_break(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.emplace_back(text.substr(start, (keep_ends ? i : end) - start));
    start = i;
  }
  if (start < text.size()) lines.emplace_back(text.substr(start));
  return lines;
}

std::string replace_all(const std::string& text, const std::string& from, const std::string& to,
                        int64_t count) {
  std::string out;
  size_t i = 0;
  const auto put = [&] {
    out += to;
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  };
  if (from.empty()) {
    // Between all characters, and at both ends.
    for (; count != 0 && i < text.size(); --count) {
      put();
      const size_t start = i;
      decode_at(text, i);
      out.append(text, start, i - start);
    }
    if (count != 0) put();
    return out.append(text, i, text.npos);
  }
  for (; count != 0; --count) {
    const void* at = memmem(text.data() + i, text.size() - i, from.data(), from.size());
    if (!at) break;
    const auto found = static_cast<size_t>(static_cast<const char*>(at) - text.data());
    out.append(text, i, found - i);
    put();
    i = found + from.size();
  }
  return out.append(text, i, text.npos);
}

std::string pad(const std::string& text, int64_t width, char32_t fill, char align) {
  const int64_t missing = width - num_code_points(text);
  if (missing <= 0) return text;
  if (static_cast<uint64_t>(missing) > kMaxStringBytes / 4) throw Failure("a string is too large");
  // str.center puts the odd one to the left when the width is odd too.
  const int64_t left = align == '<'   ? 0
                       : align == '>' ? missing
                                      : missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) append_utf8(out, fill);
  out += text;
  for (int64_t i = left; i < missing; ++i) append_utf8(out, fill);
  return out;
}

}  // namespace nanovllm::jinja
