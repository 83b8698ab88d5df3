// The template language. The expected strings are jinja2's; tests/python/test_chat_template.py
// compares with it directly.
#include "tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::string render(const std::string& source, const char* context = "{}") {
  return ChatTemplate(source, "t").render(nlohmann::ordered_json::parse(context));
}

std::string failure(const std::string& source, const char* context = "{}") {
  try {
    render(source, context);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(ChatTemplate, WhitespaceControl) {
  EXPECT_EQ(render("a\n  {% if true %}\nb\n  {% endif %}\nc\n"), "a\nb\nc");
  EXPECT_EQ(render("a {{- 1 -}} b"), "a1b");
  EXPECT_EQ(render("  {%+ if true %}x{% endif %}"), "  x");
  EXPECT_EQ(render("{% raw %}{{ x }}{% endraw %}"), "{{ x }}");
}

TEST(ChatTemplate, PythonArithmetic) {
  EXPECT_EQ(
      render("{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1e16 }} {{ 0.1 + 0.2 }}"),
      "-4 2 3.5 1024 1e+16 0.30000000000000004");
  EXPECT_EQ(render("{{ [1, 'a', none, true, 1.0, (2,), {'k': 'it\\'s'}] }}"),
            "[1, 'a', None, True, 1.0, (2,), {'k': \"it's\"}]");
}

TEST(ChatTemplate, Undefined) {
  EXPECT_EQ(render("[{{ x }}][{{ x is defined }}]"), "[][False]");
  EXPECT_EQ(failure("\n{{ x.y }}"), "t, line 2: 'x' is undefined");
}

TEST(ChatTemplate, ScopesAndLoops) {
  EXPECT_EQ(
      render(
          "{% set x = 1 %}{% for i in [2, 3] %}{{ x }}{% set x = i %}{{ x }} {% endfor %}{{ x }}"),
      "12 13 1");
  EXPECT_EQ(render("{% for i in range(5) if i % 2 %}{{ loop.index }}:{{ i }}{% if not loop.last "
                   "%},{% endif %}{% endfor %}"),
            "1:1,2:3");
  EXPECT_EQ(render("{% for x in [1] %}{% break %}{% else %}E{% endfor %}"), "E");
  EXPECT_EQ(
      render(
          "{% for x in [[1, [2]]] recursive %}({{ loop(x) if x is iterable else x }}){% endfor %}"),
      "((1)((2)))");
}

TEST(ChatTemplate, Macros) {
  EXPECT_EQ(render("{% macro m(a, b=a) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% call m(1) "
                   "%}c{% endcall %}"),
            "11c");
}

TEST(ChatTemplate, ToJson) {
  EXPECT_EQ(
      render("{{ x | tojson }}", R"({"x": {"b": "é<\n", "a": [1.0, null, 18446744073709551615]}})"),
      R"({"b": "é<\n", "a": [1.0, null, 18446744073709551615]})");
}

TEST(ChatTemplate, Failures) {
  EXPECT_EQ(failure("{{ raise_exception('no') }}"), "t, line 1: no");
  EXPECT_NE(failure("{{ [].append(1) }}").find("unsafe"), std::string::npos);
  EXPECT_NE(failure("{% include 'x' %}").find("include"), std::string::npos);
  EXPECT_NE(failure("{% if %}"), "no error");
}

TEST(ChatTemplate, HostileTemplatesEnd) {
  EXPECT_NE(
      failure("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
          .find("too many steps"),
      std::string::npos);
  EXPECT_NE(failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").find("too deeply"),
            std::string::npos);
  EXPECT_NE(failure("{{ 'a' * 10 ** 12 }}").find("too large"), std::string::npos);
  EXPECT_NE(failure("{{ " + std::string(100000, '(')), "no error");
  EXPECT_NE(failure("{{ " + std::string(100000, '-') + "1 }}"), "no error");
  EXPECT_NE(failure("{% set ns = namespace(x=0) %}{% for i in range(9999) %}{% set ns.x = [ns.x, "
                    "ns.x] %}{% endfor %}"),
            "no error");
}

}  // namespace
}  // namespace nanovllm
