// The methods of str.
#include <algorithm>
#include <cstring>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

// Most methods of str take no keywords.
const Values& positional(const Args& args, const char* name, size_t least, size_t most) {
  if (!args.keywords.empty())
    throw Failure(std::string("str.") + name + "() takes no keyword arguments");
  if (args.positional.size() < least || args.positional.size() > most)
    throw Failure(std::string(name) + "() got a wrong number of arguments");
  return args.positional;
}

bool given(const Values& args, size_t i) { return i < args.size() && !args[i].is_none(); }

size_t find_bytes(std::string_view text, std::string_view what, size_t from) {
  if (from > text.size()) return text.npos;
  const void* at = memmem(text.data() + from, text.size() - from, what.data(), what.size());
  return at ? static_cast<size_t>(static_cast<const char*>(at) - text.data()) : text.npos;
}

size_t rfind_bytes(std::string_view text, std::string_view what) {
  // memmem is linear, std::string::rfind is not: search the reversed strings.
  const std::string a(text.rbegin(), text.rend()), b(what.rbegin(), what.rend());
  const size_t at = find_bytes(a, b, 0);
  return at == text.npos ? at : text.size() - at - what.size();
}

// The part of the text that optional start and end arguments (in code points) leave.
struct Window {
  std::string_view text;
  int64_t start = 0;  // in code points
  bool valid = true;  // false: start lies behind the end of the text, where not even "" is found
};

Window window(const std::string& text, const Values& args, size_t first) {
  if (!given(args, first) && !given(args, first + 1)) return {text};
  const int64_t size = num_code_points(text);
  const auto clamp = [&](int64_t i) { return i < 0 ? std::max<int64_t>(i + size, 0) : i; };
  const int64_t start = given(args, first) ? clamp(to_index(args[first])) : 0;
  const int64_t end =
      std::min(size, given(args, first + 1) ? clamp(to_index(args[first + 1])) : size);
  if (start > end) return {{}, start, false};
  const size_t from = byte_offset(text, start);
  const size_t to = from + byte_offset(std::string_view(text).substr(from), end - start);
  return {std::string_view(text).substr(from, to - from), start, true};
}

int64_t find(const Value& self, const Args& args, const char* name, bool reverse) {
  const Values& a = positional(args, name, 1, 3);
  const std::string& what = to_text(a[0], "substring");
  const Window w = window(self.text(), a, 1);
  if (!w.valid) return -1;
  const size_t at = reverse ? rfind_bytes(w.text, what) : find_bytes(w.text, what, 0);
  return at == w.text.npos ? -1 : w.start + num_code_points(w.text.substr(0, at));
}

Value found_or_fail(int64_t at) {
  if (at < 0) throw Failure("substring not found");
  return Value::integer(at);
}

Value affix(const Value& self, const Args& args, const char* name, bool at_end) {
  const Values& a = positional(args, name, 1, 3);
  const Window w = window(self.text(), a, 1);
  const auto matches = [&](const Value& v) {
    const std::string& what = to_text(v, "prefix or suffix");
    return w.valid && (at_end ? w.text.ends_with(what) : w.text.starts_with(what));
  };
  if (!a[0].is(Kind::kTuple)) return Value::boolean(matches(a[0]));
  for (const Value& v : a[0].items())
    if (matches(v)) return Value::boolean(true);
  return Value::boolean(false);
}

Value split_whitespace(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> parts;
  text = strip(text, 3);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.push_back(text);
      break;
    }
    if (from_right) {
      size_t begin = text.size();
      while (begin > 0) {
        size_t start = begin - 1;
        while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) --start;
        size_t after = start;
        if (is_space(decode_at(text, after))) break;
        begin = start;
      }
      parts.push_back(text.substr(begin));
      text = strip(text.substr(0, begin), 2);
    } else {
      size_t end = 0, next = 0;
      while (next < text.size() && !is_space(decode_at(text, next))) end = next;
      parts.push_back(text.substr(0, end));
      text = strip(text.substr(end), 1);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  Values out;
  for (const auto part : parts) out.push_back(Value::string(std::string(part)));
  return Value::list(std::move(out));
}

Value split(const Value& self, const Args& args, const char* name, bool from_right) {
  const auto bound = args.bind(name, {"sep", "maxsplit"}, 0);
  const int64_t limit = bound[1] ? to_index(*bound[1]) : -1;
  std::string_view text = self.text();
  if (!bound[0] || bound[0]->is_none())
    return split_whitespace(text, limit, from_right && limit >= 0);
  const std::string& separator = to_text(*bound[0], "separator");
  if (separator.empty()) throw Failure("empty separator");
  // From the right: the same on the reversed text, whose search stays linear.
  std::string reversed_text, reversed_separator;
  std::string_view pattern = separator;
  if (from_right) {
    reversed_text.assign(text.rbegin(), text.rend());
    reversed_separator.assign(separator.rbegin(), separator.rend());
    text = reversed_text;
    pattern = reversed_separator;
  }
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t at = find_bytes(text, pattern, 0);
    if (at == text.npos) break;
    parts.emplace_back(text.substr(0, at));
    text = text.substr(at + pattern.size());
  }
  parts.emplace_back(text);
  if (from_right) {
    std::reverse(parts.begin(), parts.end());
    for (std::string& part : parts) std::reverse(part.begin(), part.end());
  }
  Values out;
  for (std::string& part : parts) out.push_back(Value::string(std::move(part)));
  return Value::list(std::move(out));
}

Value partition(const Value& self, const Args& args, const char* name, bool from_right) {
  const std::string& separator = to_text(positional(args, name, 1, 1)[0], "separator");
  if (separator.empty()) throw Failure("empty separator");
  const std::string& text = self.text();
  const size_t at = from_right ? rfind_bytes(text, separator) : find_bytes(text, separator, 0);
  const Value empty = Value::string("");
  if (at == text.npos)
    return Value::tuple(from_right ? Values{empty, empty, self} : Values{self, empty, empty});
  return Value::tuple({Value::string(text.substr(0, at)), Value::string(separator),
                       Value::string(text.substr(at + separator.size()))});
}

Value stripped(const Value& self, const Args& args, const char* name, int sides) {
  const Values& a = positional(args, name, 0, 1);
  if (!given(a, 0)) return Value::string(std::string(strip(self.text(), sides)));
  const std::u32string chars = to_code_points(to_text(a[0], "strip argument"));
  return Value::string(std::string(strip(self.text(), sides, &chars)));
}

Value justify(const Value& self, const Args& args, const char* name, char align) {
  const Values& a = positional(args, name, 1, 2);
  char32_t fill = U' ';
  if (a.size() > 1) {
    const std::u32string chars = to_code_points(to_text(a[1], "fill character"));
    if (chars.size() != 1) throw Failure("The fill character must be exactly one character long");
    fill = chars[0];
  }
  return Value::string(pad(self.text(), to_index(a[0]), fill, align));
}

// All characters satisfy the predicate, and there is one.
template <bool (*predicate)(char32_t)>
Value all_of(Interpreter&, const Value& self, Args& args) {
  positional(args, "is...", 0, 0);
  const std::string& text = self.text();
  bool result = !text.empty();
  for (size_t i = 0; result && i < text.size();) result = predicate(decode_at(text, i));
  return Value::boolean(result);
}

bool alphanumeric(char32_t c) {
  return is_alpha(c) || is_decimal(c) || is_digit(c) || is_numeric(c);
}

// islower, isupper: some cased character, and none of the other case.
template <bool (*wanted)(char32_t), bool (*other)(char32_t)>
Value cased(Interpreter&, const Value& self, Args& args) {
  positional(args, "is...", 0, 0);
  const std::string& text = self.text();
  bool some = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    if (other(c) || is_title(c)) return Value::boolean(false);
    some |= wanted(c);
  }
  return Value::boolean(some);
}

Value istitle(Interpreter&, const Value& self, Args& args) {
  positional(args, "istitle", 0, 0);
  const std::string& text = self.text();
  bool some = false, in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    const bool starts = is_upper(c) || is_title(c), continues = is_lower(c);
    if ((starts && in_word) || (continues && !in_word)) return Value::boolean(false);
    in_word = starts || continues;
    some |= in_word;
  }
  return Value::boolean(some);
}

template <std::string (*transform)(std::string_view)>
Value transformed(Interpreter&, const Value& self, Args& args) {
  positional(args, "str method", 0, 0);
  return Value::string(transform(self.text()));
}

Value count(Interpreter&, const Value& self, Args& args) {
  const Values& a = positional(args, "count", 1, 3);
  const std::string& what = to_text(a[0], "substring");
  const Window w = window(self.text(), a, 1);
  if (!w.valid) return Value::integer(0);
  if (what.empty()) return Value::integer(num_code_points(w.text) + 1);
  int64_t n = 0;
  for (size_t at = find_bytes(w.text, what, 0); at != w.text.npos;
       at = find_bytes(w.text, what, at + what.size()))
    ++n;
  return Value::integer(n);
}

Value join_strings(Interpreter& interpreter, const Value& self, Args& args) {
  const Values& a = positional(args, "join", 1, 1);
  std::string out;
  bool first = true;
  Iterator it(a[0]);
  for (Value item; it.next(item); first = false) {
    interpreter.charge(1);
    if (!first) out += self.text();
    out += to_text(item, "sequence item");
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  return Value::string(std::move(out));
}

Value expandtabs(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("expandtabs", {"tabsize"}, 0);
  const int64_t size = bound[0] ? to_index(*bound[0]) : 8;
  if (size > 10000) throw Failure("a string is too large");
  std::string out;
  int64_t column = 0;
  for (size_t i = 0; i < self.text().size();) {
    const char32_t c = decode_at(self.text(), i);
    if (c == '\t') {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      out.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
    } else {
      append_utf8(out, c);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
    }
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  return Value::string(std::move(out));
}

Value zfill(Interpreter&, const Value& self, Args& args) {
  const std::string& text = self.text();
  const int64_t missing = to_index(positional(args, "zfill", 1, 1)[0]) - num_code_points(text);
  if (missing <= 0) return self;
  const bool sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  return Value::string(text.substr(0, sign) + pad("", missing, U'0', '<') + text.substr(sign));
}

Value format_map(Interpreter& interpreter, const Value& self, Args& args) {
  const Values& a = positional(args, "format_map", 1, 1);
  if (!a[0].is(Kind::kDict)) throw Failure("format_map() needs a mapping");
  Args inner;
  for (const auto& [key, value] : a[0].dict().items)
    if (key.is_string()) inner.keywords.emplace_back(key.text(), value);
  return Value::string(str_format(interpreter, self.text(), inner));
}

}  // namespace

NativeFunction find_string_method(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> methods = {
      {"capitalize", transformed<capitalize>},
      {"casefold", transformed<casefold>},
      {"lower", transformed<lower>},
      {"upper", transformed<upper>},
      {"title", transformed<title>},
      {"swapcase", transformed<swapcase>},
      {"isalnum", all_of<alphanumeric>},
      {"isalpha", all_of<is_alpha>},
      {"isdecimal", all_of<is_decimal>},
      {"isdigit", all_of<is_digit>},
      {"isnumeric", all_of<is_numeric>},
      {"isspace", all_of<is_space>},
      {"islower", cased<is_lower, is_upper>},
      {"isupper", cased<is_upper, is_lower>},
      {"istitle", istitle},
      {"isascii", [](Interpreter&, const Value& self,
                     Args&) { return Value::boolean(is_ascii(self.text())); }},
      {"isprintable",
       [](Interpreter& in, const Value& self, Args& args) {
         return self.text().empty() ? Value::boolean(true) : all_of<is_printable>(in, self, args);
       }},
      {"isidentifier", [](Interpreter&, const Value& self,
                          Args&) { return Value::boolean(is_identifier(self.text())); }},
      {"center", [](Interpreter&, const Value& self,
                    Args& args) { return justify(self, args, "center", '^'); }},
      {"ljust", [](Interpreter&, const Value& self,
                   Args& args) { return justify(self, args, "ljust", '<'); }},
      {"rjust", [](Interpreter&, const Value& self,
                   Args& args) { return justify(self, args, "rjust", '>'); }},
      {"zfill", zfill},
      {"count", count},
      {"find", [](Interpreter&, const Value& self,
                  Args& args) { return Value::integer(find(self, args, "find", false)); }},
      {"rfind", [](Interpreter&, const Value& self,
                   Args& args) { return Value::integer(find(self, args, "rfind", true)); }},
      {"index", [](Interpreter&, const Value& self,
                   Args& args) { return found_or_fail(find(self, args, "index", false)); }},
      {"rindex", [](Interpreter&, const Value& self,
                    Args& args) { return found_or_fail(find(self, args, "rindex", true)); }},
      {"startswith", [](Interpreter&, const Value& self,
                        Args& args) { return affix(self, args, "startswith", false); }},
      {"endswith", [](Interpreter&, const Value& self,
                      Args& args) { return affix(self, args, "endswith", true); }},
      {"strip", [](Interpreter&, const Value& self,
                   Args& args) { return stripped(self, args, "strip", 3); }},
      {"lstrip", [](Interpreter&, const Value& self,
                    Args& args) { return stripped(self, args, "lstrip", 1); }},
      {"rstrip", [](Interpreter&, const Value& self,
                    Args& args) { return stripped(self, args, "rstrip", 2); }},
      {"split", [](Interpreter&, const Value& self,
                   Args& args) { return split(self, args, "split", false); }},
      {"rsplit", [](Interpreter&, const Value& self,
                    Args& args) { return split(self, args, "rsplit", true); }},
      {"partition", [](Interpreter&, const Value& self,
                       Args& args) { return partition(self, args, "partition", false); }},
      {"rpartition", [](Interpreter&, const Value& self,
                        Args& args) { return partition(self, args, "rpartition", true); }},
      {"join", join_strings},
      {"expandtabs", expandtabs},
      {"splitlines",
       [](Interpreter&, const Value& self, Args& args) {
         const auto bound = args.bind("splitlines", {"keepends"}, 0);
         Values out;
         for (std::string& line : split_lines(self.text(), bound[0] && truthy(*bound[0])))
           out.push_back(Value::string(std::move(line)));
         return Value::list(std::move(out));
       }},
      {"replace",
       [](Interpreter&, const Value& self, Args& args) {
         const Values& a = positional(args, "replace", 2, 3);
         return Value::string(replace_all(self.text(), to_text(a[0], "replace() argument"),
                                          to_text(a[1], "replace() argument"),
                                          a.size() > 2 ? to_index(a[2]) : -1));
       }},
      {"removeprefix",
       [](Interpreter&, const Value& self, Args& args) {
         const std::string& prefix = to_text(positional(args, "removeprefix", 1, 1)[0], "prefix");
         return self.text().starts_with(prefix) ? Value::string(self.text().substr(prefix.size()))
                                                : self;
       }},
      {"removesuffix",
       [](Interpreter&, const Value& self, Args& args) {
         const std::string& suffix = to_text(positional(args, "removesuffix", 1, 1)[0], "suffix");
         return self.text().ends_with(suffix)
                    ? Value::string(self.text().substr(0, self.text().size() - suffix.size()))
                    : self;
       }},
      {"format",
       [](Interpreter& interpreter, const Value& self, Args& args) {
         return Value::string(str_format(interpreter, self.text(), args));
       }},
      {"format_map", format_map},
  };
  const auto it = methods.find(name);
  return it == methods.end() ? nullptr : it->second;
}

}  // namespace nanovllm::jinja
