// The built-in filters, tests, methods and global functions, by name.
//
// Each is a NativeFunction(interpreter, self, args): self is the filter's or test's input, or the
// object of a method.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/jinja_value.h"

namespace nanovllm::jinja {

NativeFunction find_filter(std::string_view name);  // null if there is none
NativeFunction find_test(std::string_view name);
NativeFunction find_global(std::string_view name);

NativeFunction find_text_filter(std::string_view name);
NativeFunction find_number_filter(std::string_view name);    // jinja_text_filters.cc
NativeFunction find_sequence_filter(std::string_view name);  // jinja_sequence_filters.cc

// The method of a value's Python type, or null. `unsafe` is set for those that the sandbox forbids
// (they change a list or a dict).
NativeFunction find_method(const Value& self, std::string_view name, bool& unsafe);
NativeFunction find_string_method(std::string_view name);

std::string percent_format(const std::string& format, const Value& arguments);
std::string str_format(Interpreter& interpreter, const std::string& format, const Args& args);
std::string format_spec(const Value& value, std::string_view spec);  // Python's format(value, spec)

// Helpers that several of them share.
int64_t to_index(const Value& value);  // an int or a bool; throws otherwise
const std::string& to_text(const Value& value, const char* what);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends);
std::string replace_all(const std::string& text, const std::string& from, const std::string& to,
                        int64_t count);
std::string pad(const std::string& text, int64_t width, char32_t fill, char align);  // align: < > ^
std::string escape_html(std::string_view text);
Value round_half_even(double value, int64_t digits);

}  // namespace nanovllm::jinja
