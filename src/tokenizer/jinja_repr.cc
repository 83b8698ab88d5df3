// str(), repr() and json.dumps() of values, byte for byte as Python writes them.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "tokenizer/jinja_unicode.h"
#include "tokenizer/jinja_value.h"

namespace nanovllm::jinja {

namespace {

void check_length(const std::string& out) {
  if (out.size() > kMaxStringBytes) throw Failure("a string is too large");
}

void append_hex(std::string& out, const char* prefix, char32_t c, int digits) {
  char buffer[16];
  std::snprintf(buffer, sizeof buffer, "%0*x", digits, static_cast<unsigned>(c));
  out += prefix;
  out += buffer;
}

void append_string_repr(std::string& out, const std::string& text) {
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  out += quote;
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    const char32_t c = decode_at(text, i);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c < 0x80 ? c >= 0x20 && c != 0x7f : is_printable(c)) {
      out.append(text, start, i - start);
    } else if (c <= 0xff) {
      append_hex(out, "\\x", c, 2);
    } else if (c <= 0xffff) {
      append_hex(out, "\\u", c, 4);
    } else {
      append_hex(out, "\\U", c, 8);
    }
  }
  out += quote;
}

void append_repr(std::string& out, const Value& v) {
  check_length(out);
  switch (v.kind()) {
    case Kind::kUndefined:
      out += "Undefined";
      return;
    case Kind::kNone:
      out += "None";
      return;
    case Kind::kBool:
      out += v.as_bool() ? "True" : "False";
      return;
    case Kind::kInt:
      out += std::to_string(v.as_int());
      return;
    case Kind::kFloat:
      out += float_repr(v.as_real());
      return;
    case Kind::kBigInt:
      out += v.text();
      return;
    case Kind::kString:
      append_string_repr(out, v.text());
      return;
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kView: {
      const bool tuple = v.is(Kind::kTuple);
      if (v.is(Kind::kView)) out.append(v.view_name()).append("(");
      out += tuple ? '(' : '[';
      bool first = true;
      for (const Value& item : v.items()) {
        if (!first) out += ", ";
        first = false;
        append_repr(out, item);
      }
      if (tuple && v.items().size() == 1) out += ',';
      out += tuple ? ')' : ']';
      if (v.is(Kind::kView)) out += ')';
      return;
    }
    case Kind::kRange: {
      const Range& r = v.range();
      out += "range(" + std::to_string(r.start) + ", " + std::to_string(r.stop);
      if (r.step != 1) out += ", " + std::to_string(r.step);
      out += ')';
      return;
    }
    case Kind::kDict: {
      out += '{';
      bool first = true;
      for (const auto& [key, value] : v.dict().items) {
        if (!first) out += ", ";
        first = false;
        append_repr(out, key);
        out += ": ";
        append_repr(out, value);
      }
      out += '}';
      return;
    }
    default:
      out.append("<").append(type_name(v)).append(" object>");
      return;
  }
}

void append_json_string(std::string& out, const std::string& text, bool ensure_ascii) {
  out += '"';
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    switch (byte) {
      case '"':
        out += "\\\"";
        ++i;
        continue;
      case '\\':
        out += "\\\\";
        ++i;
        continue;
      case '\n':
        out += "\\n";
        ++i;
        continue;
      case '\r':
        out += "\\r";
        ++i;
        continue;
      case '\t':
        out += "\\t";
        ++i;
        continue;
      case '\f':
        out += "\\f";
        ++i;
        continue;
      case '\b':
        out += "\\b";
        ++i;
        continue;
    }
    if (byte < 0x20) {
      append_hex(out, "\\u", byte, 4);
      ++i;
    } else if (byte < 0x80 || !ensure_ascii) {
      if (byte == 0x7f && ensure_ascii)
        out += '\x7f';
      else
        out += text[i];
      ++i;
    } else {
      const char32_t c = decode_at(text, i);
      if (c > 0xffff) {
        append_hex(out, "\\u", 0xd800 + ((c - 0x10000) >> 10), 4);
        append_hex(out, "\\u", 0xdc00 + ((c - 0x10000) & 0x3ff), 4);
      } else {
        append_hex(out, "\\u", c, 4);
      }
    }
  }
  out += '"';
}

std::string json_float(double d) {
  if (std::isnan(d)) return "NaN";
  if (std::isinf(d)) return d < 0 ? "-Infinity" : "Infinity";
  return float_repr(d);
}

std::string json_key(const Value& key) {
  switch (key.kind()) {
    case Kind::kString:
      return key.text();
    case Kind::kNone:
      return "null";
    case Kind::kBool:
      return key.as_bool() ? "true" : "false";
    case Kind::kFloat:
      return json_float(key.as_real());
    case Kind::kInt:
    case Kind::kBigInt:
      return repr(key);
    default:
      throw Failure(std::string("keys must be str, int, float, bool or None, not ") +
                    type_name(key));
  }
}

struct JsonWriter {
  const JsonStyle& style;
  std::string out;

  void newline(int level) {
    if (!style.pretty) return;
    if (style.indent.size() * static_cast<size_t>(level) > kMaxStringBytes)
      throw Failure("a string is too large");
    out += '\n';
    for (int i = 0; i < level; ++i) out += style.indent;
  }

  void write(const Value& v, int level) {
    check_length(out);
    switch (v.kind()) {
      case Kind::kNone:
        out += "null";
        return;
      case Kind::kBool:
        out += v.as_bool() ? "true" : "false";
        return;
      case Kind::kInt:
      case Kind::kBigInt:
        append_repr(out, v);
        return;
      case Kind::kFloat:
        out += json_float(v.as_real());
        return;
      case Kind::kString:
        append_json_string(out, v.text(), style.ensure_ascii);
        return;
      case Kind::kList:
      case Kind::kTuple: {
        if (v.items().empty()) {
          out += "[]";
          return;
        }
        out += '[';
        bool first = true;
        for (const Value& item : v.items()) {
          if (!first) out += style.item_separator;
          first = false;
          newline(level + 1);
          write(item, level + 1);
        }
        newline(level);
        out += ']';
        return;
      }
      case Kind::kDict: {
        if (v.dict().items.empty()) {
          out += "{}";
          return;
        }
        auto items = v.dict().items;
        if (style.sort_keys)
          std::stable_sort(items.begin(), items.end(),
                           [](const auto& a, const auto& b) { return less(a.first, b.first); });
        out += '{';
        bool first = true;
        for (const auto& [key, value] : items) {
          if (!first) out += style.item_separator;
          first = false;
          newline(level + 1);
          append_json_string(out, json_key(key), style.ensure_ascii);
          out += style.key_separator;
          write(value, level + 1);
        }
        newline(level);
        out += '}';
        return;
      }
      default:
        throw Failure(std::string("Object of type ") + type_name(v) + " is not JSON serializable");
    }
  }
};

}  // namespace

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  if (value == 0) return std::signbit(value) ? "-0.0" : "0.0";
  char buffer[64];
  // The shortest digits that read back as the same double, as d.ddde±xx; Python then chooses the
  // layout.
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, std::fabs(value), std::chars_format::scientific)
          .ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(e + 1)).c_str());
  std::string digits(1, text[0]);
  if (e > 1) digits += text.substr(2, e - 2);
  std::string out = value < 0 ? "-" : "";
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    std::snprintf(buffer, sizeof buffer, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return out + buffer;
  }
  if (exponent < 0)
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return out + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return out + digits.substr(0, static_cast<size_t>(exponent + 1)) + "." +
         digits.substr(static_cast<size_t>(exponent + 1));
}

std::string repr(const Value& value) {
  std::string out;
  append_repr(out, value);
  check_length(out);
  return out;
}

std::string str(const Value& value) {
  if (value.is_string()) return value.text();
  if (value.is_undefined()) return {};
  return repr(value);
}

std::string to_json(const Value& value, const JsonStyle& style) {
  JsonWriter writer{style, {}};
  writer.write(value, 0);
  check_length(writer.out);
  return std::move(writer.out);
}

}  // namespace nanovllm::jinja
