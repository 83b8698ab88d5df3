#include <algorithm>

#include "tokenizer/jinja_library.h"
#include "tokenizer/jinja_parser.h"

namespace nanovllm::jinja {

namespace {
constexpr int kMaxExpressionDepth = 250;
}

ExprPtr Parser::make(ExprKind kind, int line) const {
  auto node = std::make_unique<Expr>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExprPtr Parser::make(ExprKind kind, int line, ExprPtr left, ExprPtr right) const {
  ExprPtr node = make(kind, line);
  node->items.push_back(std::move(left));
  if (right) node->items.push_back(std::move(right));
  return finish(std::move(node));
}

ExprPtr Parser::finish(ExprPtr node) const {
  const auto count = [&](const ExprPtr& child) {
    if (child) node->depth = std::max(node->depth, child->depth + 1);
  };
  for (const ExprPtr& item : node->items) count(item);
  for (const auto& keyword : node->keywords) count(keyword.second);
  count(node->star_args);
  count(node->star_keywords);
  if (node->depth > kMaxExpressionDepth) fail("an expression is nested too deeply");
  return node;
}

ExprPtr Parser::parse_tuple(bool simplified, bool with_conditional, std::string_view end_name,
                            bool parenthesized, bool with_namespace) {
  Nesting nesting(*this);
  const int line = current().line;
  std::vector<ExprPtr> items;
  bool is_tuple = false;
  while (true) {
    if (!items.empty()) expect_op(",");
    if (is(TokenType::kVariableEnd) || is(TokenType::kBlockEnd) || is_op(")") ||
        (!end_name.empty() && is_name(end_name)))
      break;
    items.push_back(simplified ? parse_primary(with_namespace)
                               : parse_expression(with_conditional));
    if (!is_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items[0]);
    if (!parenthesized) fail("Expected an expression");
  }
  ExprPtr node = make(ExprKind::kTuple, line);
  node->items = std::move(items);
  return finish(std::move(node));
}

ExprPtr Parser::parse_expression(bool with_conditional) {
  Nesting nesting(*this);
  return with_conditional ? parse_conditional() : parse_or();
}

ExprPtr Parser::parse_conditional() {
  const int line = current().line;
  ExprPtr then = parse_or();
  while (skip_name("if")) {
    ExprPtr test = parse_or(), otherwise;
    if (skip_name("else")) {
      Nesting nesting(*this);
      otherwise = parse_conditional();
    }
    ExprPtr node = make(ExprKind::kConditional, line);
    node->items.push_back(std::move(test));
    node->items.push_back(std::move(then));
    node->items.push_back(std::move(otherwise));
    then = finish(std::move(node));
  }
  return then;
}

ExprPtr Parser::parse_or() {
  ExprPtr left = parse_and();
  while (is_name("or")) {
    const int line = current().line;
    advance();
    left = make(ExprKind::kOr, line, std::move(left), parse_and());
  }
  return left;
}

ExprPtr Parser::parse_and() {
  ExprPtr left = parse_not();
  while (is_name("and")) {
    const int line = current().line;
    advance();
    left = make(ExprKind::kAnd, line, std::move(left), parse_not());
  }
  return left;
}

ExprPtr Parser::parse_not() {
  Nesting nesting(*this);
  const int line = current().line;
  if (skip_name("not")) return make(ExprKind::kNot, line, parse_not());
  return parse_compare();
}

ExprPtr Parser::parse_compare() {
  const int line = current().line;
  ExprPtr first = parse_sum();
  ExprPtr node;
  while (true) {
    std::string op;
    if (is(TokenType::kOperator) &&
        (is_op("==") || is_op("!=") || is_op("<") || is_op("<=") || is_op(">") || is_op(">="))) {
      op = current().text;
    } else if (is_name("in")) {
      op = "in";
    } else if (is_name("not") && look().type == TokenType::kName && look().text == "in") {
      op = "not in";
      advance();
    } else {
      break;
    }
    advance();
    if (!node) {
      node = make(ExprKind::kCompare, line);
      node->items.push_back(std::move(first));
    }
    node->operators.push_back(std::move(op));
    node->items.push_back(parse_sum());
  }
  return node ? finish(std::move(node)) : std::move(first);
}

ExprPtr Parser::parse_sum() {
  ExprPtr left = parse_concat();
  while (is_op("+") || is_op("-")) {
    const int line = current().line;
    const std::string op = current().text;
    advance();
    left = make(ExprKind::kBinary, line, std::move(left), parse_concat());
    left->operators.push_back(op);
  }
  return left;
}

ExprPtr Parser::parse_concat() {
  const int line = current().line;
  ExprPtr first = parse_product();
  if (!is_op("~")) return first;
  ExprPtr node = make(ExprKind::kConcat, line);
  node->items.push_back(std::move(first));
  while (skip_op("~")) node->items.push_back(parse_product());
  return finish(std::move(node));
}

ExprPtr Parser::parse_product() {
  ExprPtr left = parse_power();
  while (is_op("*") || is_op("/") || is_op("//") || is_op("%")) {
    const int line = current().line;
    const std::string op = current().text;
    advance();
    left = make(ExprKind::kBinary, line, std::move(left), parse_power());
    left->operators.push_back(op);
  }
  return left;
}

// jinja2 groups a ** b ** c from the left and lets unary minus bind tighter, unlike Python. But it
// compiles to Python source with parentheses around each operation, so what is parsed here is what
// is computed.
ExprPtr Parser::parse_power() {
  ExprPtr left = parse_unary();
  while (is_op("**")) {
    const int line = current().line;
    advance();
    left = make(ExprKind::kBinary, line, std::move(left), parse_unary());
    left->operators.push_back("**");
  }
  return left;
}

ExprPtr Parser::parse_unary(bool with_filter) {
  Nesting nesting(*this);
  const int line = current().line;
  ExprPtr node;
  if (is_op("-") || is_op("+")) {
    const std::string op = current().text;
    advance();
    node = make(ExprKind::kUnary, line, parse_unary(false));
    node->operators.push_back(op);
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filter ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExprPtr Parser::parse_primary(bool with_namespace) {
  const Token token = current();
  ExprPtr node = make(ExprKind::kConst, token.line);
  switch (token.type) {
    case TokenType::kName:
      advance();
      if (token.text == "true" || token.text == "True" || token.text == "false" ||
          token.text == "False") {
        node->value = Value::boolean(token.text[0] == 't' || token.text[0] == 'T');
      } else if (token.text == "none" || token.text == "None") {
        node->value = Value::none();
      } else {
        node->kind = ExprKind::kName;
        node->name = program_.intern(token.text);
        if (with_namespace && skip_op(".")) {
          node->kind = ExprKind::kNamespaceRef;
          node->attribute = program_.intern(expect_any_name());
        }
      }
      return node;
    case TokenType::kString: {
      std::string text;
      while (is(TokenType::kString)) {
        text += current().value.text();
        advance();
      }
      node->value = Value::string(std::move(text));
      return node;
    }
    case TokenType::kInteger:
    case TokenType::kFloat:
      node->value = token.value;
      advance();
      return node;
    default:
      break;
  }
  if (skip_op("(")) {
    node = parse_tuple(false, true, {}, true);
    expect_op(")");
    return node;
  }
  if (is_op("[")) return parse_list();
  if (is_op("{")) return parse_dict();
  if (is(TokenType::kEnd)) fail("unexpected end of template");
  fail("unexpected '" + token.text + "'");
}

ExprPtr Parser::parse_list() {
  ExprPtr node = make(ExprKind::kList, current().line);
  expect_op("[");
  while (!is_op("]")) {
    if (!node->items.empty()) expect_op(",");
    if (is_op("]")) break;
    node->items.push_back(parse_expression());
  }
  expect_op("]");
  return finish(std::move(node));
}

ExprPtr Parser::parse_dict() {
  ExprPtr node = make(ExprKind::kDict, current().line);
  expect_op("{");
  while (!is_op("}")) {
    if (!node->items.empty()) expect_op(",");
    if (is_op("}")) break;
    node->items.push_back(parse_expression());
    expect_op(":");
    node->items.push_back(parse_expression());
  }
  expect_op("}");
  return finish(std::move(node));
}

ExprPtr Parser::parse_postfix(ExprPtr node) {
  while (true) {
    if (is_op(".") || is_op("["))
      node = parse_subscript(std::move(node));
    else if (is_op("("))
      node = parse_call(std::move(node));
    else
      return node;
  }
}

ExprPtr Parser::parse_filters_and_tests(ExprPtr node) {
  while (true) {
    if (is_op("|"))
      node = parse_filter(std::move(node));
    else if (is_name("is"))
      node = parse_test(std::move(node));
    else if (is_op("("))
      node = parse_call(std::move(node));
    else
      return node;
  }
}

ExprPtr Parser::parse_subscript(ExprPtr object) {
  const int line = current().line;
  if (skip_op(".")) {
    const Token token = current();
    advance();
    if (token.type == TokenType::kName) {
      ExprPtr node = make(ExprKind::kAttribute, line, std::move(object));
      node->attribute = program_.intern(token.text);
      return node;
    }
    if (token.type != TokenType::kInteger) throw SyntaxError(token.line, "expected name or number");
    ExprPtr index = make(ExprKind::kConst, token.line);
    index->value = token.value;
    return make(ExprKind::kItem, line, std::move(object), std::move(index));
  }
  expect_op("[");
  std::vector<ExprPtr> indices;
  while (!is_op("]")) {
    if (!indices.empty()) expect_op(",");
    indices.push_back(parse_index());
  }
  expect_op("]");
  if (indices.size() == 1)
    return make(ExprKind::kItem, line, std::move(object), std::move(indices[0]));
  ExprPtr tuple = make(ExprKind::kTuple, line);
  tuple->items = std::move(indices);
  return make(ExprKind::kItem, line, std::move(object), finish(std::move(tuple)));
}

ExprPtr Parser::parse_index() {
  ExprPtr node = make(ExprKind::kSlice, current().line);
  node->items.resize(3);
  if (!is_op(":")) {
    ExprPtr start = parse_expression();
    if (!is_op(":")) return start;
    node->items[0] = std::move(start);
  }
  advance();
  const auto at_end = [&] { return is_op("]") || is_op(","); };
  if (!is_op(":") && !at_end()) node->items[1] = parse_expression();
  if (skip_op(":") && !at_end()) node->items[2] = parse_expression();
  return finish(std::move(node));
}

void Parser::parse_arguments(Expr& call) {
  expect_op("(");
  const auto ensure = [&](bool ok) {
    if (!ok) fail("invalid syntax for function call expression");
  };
  bool comma = false;
  while (!is_op(")")) {
    if (comma) {
      expect_op(",");
      if (is_op(")")) break;
    }
    comma = true;
    if (is_op("*")) {
      ensure(!call.star_args && !call.star_keywords);
      advance();
      call.star_args = parse_expression();
    } else if (is_op("**")) {
      ensure(!call.star_keywords);
      advance();
      call.star_keywords = parse_expression();
    } else if (is(TokenType::kName) && look().type == TokenType::kOperator && look().text == "=") {
      ensure(!call.star_keywords);
      const std::string name = current().text;
      for (const auto& keyword : call.keywords)
        if (keyword.first == name) fail("keyword argument repeated: " + name);
      advance();
      advance();
      call.keywords.emplace_back(name, parse_expression());
    } else {
      ensure(!call.star_args && !call.star_keywords && call.keywords.empty());
      call.items.push_back(parse_expression());
    }
  }
  expect_op(")");
}

ExprPtr Parser::parse_call(ExprPtr callee) {
  ExprPtr node = make(ExprKind::kCall, current().line);
  node->items.push_back(std::move(callee));
  parse_arguments(*node);
  return finish(std::move(node));
}

std::string Parser::parse_dotted_name() {
  std::string name = expect_any_name();
  while (skip_op(".")) name += "." + expect_any_name();
  return name;
}

ExprPtr Parser::parse_filter(ExprPtr input, bool inline_start) {
  while (inline_start || is_op("|")) {
    if (!inline_start) advance();
    inline_start = false;
    ExprPtr node = make(ExprKind::kFilter, current().line);
    const std::string name = parse_dotted_name();
    node->name = program_.intern(name);
    node->native = find_filter(name);
    node->items.push_back(std::move(input));
    if (is_op("(")) parse_arguments(*node);
    input = finish(std::move(node));
  }
  return input;
}

ExprPtr Parser::parse_test(ExprPtr input) {
  const int line = current().line;
  advance();  // is
  const bool negated = skip_name("not");
  ExprPtr node = make(ExprKind::kTest, line);
  const std::string name = parse_dotted_name();
  node->name = program_.intern(name);
  node->native = find_test(name);
  node->items.push_back(std::move(input));
  if (is_op("(")) {
    parse_arguments(*node);
  } else if ((is(TokenType::kName) && !is_name("else") && !is_name("or") && !is_name("and")) ||
             is(TokenType::kString) || is(TokenType::kInteger) || is(TokenType::kFloat) ||
             is_op("[") || is_op("{")) {
    if (is_name("is")) fail("You cannot chain multiple tests with is");
    node->items.push_back(parse_postfix(parse_primary()));
  }
  node = finish(std::move(node));
  return negated ? make(ExprKind::kNot, line, std::move(node)) : std::move(node);
}

}  // namespace nanovllm::jinja
