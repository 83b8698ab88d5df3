// Filters on text.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm::jinja {

namespace {

template <std::string (*transform)(std::string_view)>
Value text_filter(Interpreter&, const Value& self, Args& args) {
  args.bind("filter", {}, 0);
  return Value::string(transform(str(self)));
}

// The filter, unlike the method, starts a word after any of these separators only.
std::string title_filter(std::string_view text) {
  const auto separator = [](char32_t c) {
    return is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  };
  std::string out, word;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t first = byte_offset(word, 1);
    out += upper(word.substr(0, first)) + lower(word.substr(first));
    word.clear();
  };
  for (size_t i = 0; i < text.size();) {
    const char32_t c = decode_at(text, i);
    if (separator(c)) flush();
    append_utf8(separator(c) ? out : word, c);
  }
  flush();
  return out;
}

std::string url_quote(const std::string& text, bool query) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (std::isalnum(byte) || c == '_' || c == '.' || c == '-' || c == '~' ||
        (c == '/' && !query)) {
      out += c;
    } else if (c == ' ' && query) {
      out += '+';
    } else {
      char buffer[8];
      std::snprintf(buffer, sizeof buffer, "%%%02X", byte);
      out += buffer;
    }
  }
  return out;
}

Value urlencode(Interpreter&, const Value& self, Args& args) {
  args.bind("urlencode", {}, 0);
  if (self.is_string() || !is_iterable(self)) return Value::string(url_quote(str(self), false));
  std::string out;
  const auto pair = [&](const Value& key, const Value& value) {
    if (!out.empty()) out += '&';
    out += url_quote(str(key), true) + "=" + url_quote(str(value), true);
  };
  if (self.is(Kind::kDict)) {
    for (const auto& [key, value] : self.dict().items) pair(key, value);
  } else {
    Iterator it(self);
    for (Value item; it.next(item);) {
      const Values two = to_vector(item);
      if (two.size() != 2) throw Failure("urlencode needs pairs");
      pair(two[0], two[1]);
    }
  }
  return Value::string(std::move(out));
}

Value xmlattr(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("xmlattr", {"autospace"}, 0);
  if (!self.is(Kind::kDict)) throw Failure("xmlattr needs a mapping");
  std::string out;
  for (const auto& [key, value] : self.dict().items) {
    if (value.is_none() || value.is_undefined()) continue;
    const std::string& name = to_text(key, "attribute name");
    if (name.find_first_of(" \t\n\r\f\v/>=") != name.npos)
      throw Failure("Invalid character in attribute name: " + repr(key));
    if (!out.empty()) out += ' ';
    out += escape_html(name) + "=\"" + escape_html(str(value)) + "\"";
  }
  if (!out.empty() && (!bound[0] || truthy(*bound[0]))) out.insert(0, 1, ' ');
  return Value::string(std::move(out));
}

Value replace(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("replace", {"old", "new", "count"}, 2);
  const int64_t count = bound[2] && !bound[2]->is_none() ? to_index(*bound[2]) : -1;
  return Value::string(replace_all(str(self), str(*bound[0]), str(*bound[1]), count));
}

Value trim(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("trim", {"chars"}, 0);
  const std::string text = str(self);
  if (!bound[0] || bound[0]->is_none()) return Value::string(std::string(strip(text, 3)));
  const std::u32string chars = to_code_points(to_text(*bound[0], "strip argument"));
  return Value::string(std::string(strip(text, 3, &chars)));
}

Value center(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("center", {"width"}, 0);
  return Value::string(pad(str(self), bound[0] ? to_index(*bound[0]) : 80, U' ', '^'));
}

Value indent(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("indent", {"width", "first", "blank"}, 0);
  std::string indention(4, ' ');
  if (bound[0])
    indention = bound[0]->is_string() ? bound[0]->text() : pad("", to_index(*bound[0]), U' ', '<');
  if (self.is_undefined()) self.fail_undefined();
  const bool first = bound[1] && truthy(*bound[1]), blank = bound[2] && truthy(*bound[2]);
  const std::vector<std::string> lines = split_lines(to_text(self, "indent input") + "\n", false);
  std::string out = first ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
    if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
  }
  return Value::string(std::move(out));
}

Value truncate(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("truncate", {"length", "killwords", "end", "leeway"}, 0);
  const int64_t limit = bound[0] ? to_index(*bound[0]) : 255;
  const std::string end = bound[2] ? to_text(*bound[2], "end") : "...";
  const int64_t leeway = bound[3] && !bound[3]->is_none() ? to_index(*bound[3]) : 5;
  if (limit < num_code_points(end))
    throw Failure("expected length >= " + std::to_string(num_code_points(end)));
  if (leeway < 0) throw Failure("expected leeway >= 0");
  const int64_t size = length(self);
  if (size <= (limit > INT64_MAX - leeway ? INT64_MAX : limit + leeway)) return self;
  const std::string& text = to_text(self, "truncate input");
  std::string cut = text.substr(0, byte_offset(text, limit - num_code_points(end)));
  if (!bound[1] || !truthy(*bound[1])) {
    const size_t space = cut.rfind(' ');
    if (space != cut.npos) cut.resize(space);
  }
  return Value::string(cut + end);
}

Value wordcount(Interpreter&, const Value& self, Args& args) {
  args.bind("wordcount", {}, 0);
  const std::string text = str(self);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const bool word = is_word(decode_at(text, i));
    words += word && !inside;
    inside = word;
  }
  return Value::integer(words);
}

Value format(Interpreter&, const Value& self, Args& args) {
  if (!args.positional.empty() && !args.keywords.empty())
    throw Failure("can't handle positional and keyword arguments at the same time");
  if (args.keywords.empty())
    return Value::string(percent_format(str(self), Value::tuple(args.positional)));
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [key, value] : args.keywords) items.emplace_back(Value::string(key), value);
  return Value::string(percent_format(str(self), Value::dict(std::move(items))));
}

Value striptags(Interpreter&, const Value& self, Args& args) {
  args.bind("striptags", {}, 0);
  std::string text = str(self);
  const auto remove = [&](const char* open, const char* close) {
    std::string out;
    size_t i = 0;
    for (const std::string start = open, end = close;;) {
      const size_t from = text.find(start, i);
      const size_t to = from == text.npos ? from : text.find(end, from);
      if (to == text.npos) break;
      out.append(text, i, from - i);
      i = to + end.size();
    }
    text = out.append(text, i, text.npos);
  };
  remove("<!--", "-->");
  remove("<", ">");
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    if (!is_space(decode_at(text, i)))
      out.append(text, start, i - start);
    else if (!out.empty() && out.back() != ' ')
      out += ' ';
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  if (out.find('&') != out.npos) throw Failure("striptags: character references are not supported");
  return Value::string(std::move(out));
}

Value tojson(Interpreter&, const Value& self, Args& args) {
  const auto bound = args.bind("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}, 0);
  JsonStyle style;
  style.ensure_ascii = bound[0] && truthy(*bound[0]);
  if (bound[1] && !bound[1]->is_none()) {
    style.pretty = true;
    style.item_separator = ",";
    style.indent =
        bound[1]->is_string() ? bound[1]->text() : pad("", to_index(*bound[1]), U' ', '<');
  }
  if (bound[2] && !bound[2]->is_none()) {
    const Values two = to_vector(*bound[2]);
    if (two.size() != 2) throw Failure("separators must be a pair");
    style.item_separator = to_text(two[0], "separator");
    style.key_separator = to_text(two[1], "separator");
  }
  style.sort_keys = bound[3] && truthy(*bound[3]);
  return Value::string(to_json(self, style));
}

template <bool escaped>
Value to_markup(Interpreter&, const Value& self, Args& args) {
  args.bind("filter", {}, 0);
  if (self.is_markup()) return self;
  return Value::markup(escaped ? escape_html(str(self)) : str(self));
}

Value to_string(Interpreter&, const Value& self, Args& args) {
  args.bind("string", {}, 0);
  return self.is_string() ? self : Value::string(str(self));
}

Value unsupported(Interpreter&, const Value&, Args&) {
  throw Failure("this HTML or formatting filter (pprint, urlize, wordwrap) is not supported");
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

NativeFunction find_text_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> filters = {
      {"upper", text_filter<upper>},
      {"lower", text_filter<lower>},
      {"capitalize", text_filter<capitalize>},
      {"title", text_filter<title_filter>},
      {"e", to_markup<true>},
      {"escape", to_markup<true>},
      {"forceescape", to_markup<true>},
      {"urlencode", urlencode},
      {"xmlattr", xmlattr},
      {"replace", replace},
      {"trim", trim},
      {"center", center},
      {"indent", indent},
      {"truncate", truncate},
      {"wordcount", wordcount},
      {"format", format},
      {"striptags", striptags},
      {"tojson", tojson},
      {"string", to_string},
      {"safe", to_markup<false>},
      {"pprint", unsupported},
      {"urlize", unsupported},
      {"wordwrap", unsupported},
  };
  const auto it = filters.find(name);
  return it == filters.end() ? nullptr : it->second;
}

}  // namespace nanovllm::jinja
