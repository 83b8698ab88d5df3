#include "tokenizer/jinja_parser.h"

#include <algorithm>

namespace nanovllm::jinja {

void Parser::expect(TokenType type, const char* what) {
  if (!is(type)) fail(std::string("expected ") + what);
  advance();
}

void Parser::expect_op(std::string_view op) {
  if (!skip_op(op)) fail("expected '" + std::string(op) + "'");
}

void Parser::expect_name(std::string_view name) {
  if (!skip_name(name)) fail("expected '" + std::string(name) + "'");
}

std::string Parser::expect_any_name() {
  if (!is(TokenType::kName)) fail("expected a name");
  std::string name = current().text;
  advance();
  return name;
}

StmtPtr Parser::make_stmt(StmtKind kind) const {
  auto stmt = std::make_unique<Stmt>();
  stmt->kind = kind;
  stmt->line = current().line;
  return stmt;
}

void Parser::parse_template() {
  program_.body.statements = parse_until({});
  if (!is(TokenType::kEnd)) fail("unexpected end of template");
}

// Statements up to one of the end tags, whose name becomes the current token; without end tags, up
// to the end.
std::vector<StmtPtr> Parser::parse_until(std::initializer_list<std::string_view> end_names) {
  Nesting nesting(*this);
  std::vector<StmtPtr> out;
  const auto output = [&]() -> Stmt& {
    if (out.empty() || out.back()->kind != StmtKind::kOutput)
      out.push_back(make_stmt(StmtKind::kOutput));
    return *out.back();
  };
  while (true) {
    switch (current().type) {
      case TokenType::kData: {
        ExprPtr data = make(ExprKind::kConst, current().line);
        data->value = Value::string(current().text);
        output().exprs.push_back(std::move(data));
        advance();
        break;
      }
      case TokenType::kVariableBegin: {
        advance();
        ExprPtr expr = parse_tuple();
        output().exprs.push_back(std::move(expr));
        expect(TokenType::kVariableEnd, "end of print statement");
        break;
      }
      case TokenType::kBlockBegin: {
        advance();
        if (is(TokenType::kName) &&
            std::find(end_names.begin(), end_names.end(), current().text) != end_names.end())
          return out;
        out.push_back(parse_statement());
        expect(TokenType::kBlockEnd, "end of statement block");
        break;
      }
      default:
        if (end_names.size() == 0) return out;
        fail("Unexpected end of template. Looking for '" + std::string(*end_names.begin()) + "'.");
    }
  }
}

std::vector<StmtPtr> Parser::parse_body(std::initializer_list<std::string_view> end_names) {
  skip_op(":");
  expect(TokenType::kBlockEnd, "end of statement block");
  return parse_until(end_names);
}

StmtPtr Parser::parse_statement() {
  if (!is(TokenType::kName)) fail("tag name expected");
  static constexpr std::pair<std::string_view, StmtPtr (Parser::*)()> kTags[] = {
      {"for", &Parser::parse_for},
      {"if", &Parser::parse_if},
      {"set", &Parser::parse_set},
      {"macro", &Parser::parse_macro},
      {"call", &Parser::parse_call_block},
      {"filter", &Parser::parse_filter_block},
      {"with", &Parser::parse_with},
      {"block", &Parser::parse_block},
      {"print", &Parser::parse_print},
      {"autoescape", &Parser::parse_autoescape},
      {"include", &Parser::parse_refused},
      {"import", &Parser::parse_refused},
      {"from", &Parser::parse_refused},
      {"extends", &Parser::parse_refused},
      {"generation", &Parser::parse_generation},
  };
  const std::string& name = current().text;
  if (name == "break" || name == "continue") {
    if (!in_loop_) fail("'" + name + "' outside loop");
    StmtPtr stmt = make_stmt(name == "break" ? StmtKind::kBreak : StmtKind::kContinue);
    advance();
    return stmt;
  }
  for (const auto& [tag, parse] : kTags)
    if (name == tag) return (this->*parse)();
  fail("Encountered unknown tag '" + name + "'.");
}

ExprPtr Parser::parse_target(bool with_namespace, std::string_view end_name) {
  ExprPtr target = parse_tuple(true, true, end_name, false, with_namespace);
  // Names and tuples of them, at any depth.
  const auto check = [&](const auto& self, const Expr& expr) -> void {
    if (expr.kind == ExprKind::kTuple) {
      for (const ExprPtr& item : expr.items) self(self, *item);
    } else if (expr.kind != ExprKind::kName && expr.kind != ExprKind::kNamespaceRef) {
      fail("can't assign to this expression");
    }
  };
  check(check, *target);
  return target;
}

Symbol Parser::parse_target_name() {
  const std::string name = expect_any_name();
  for (const char* reserved : {"true", "false", "none", "True", "False", "None"})
    if (name == reserved) fail("can't assign to '" + name + "'");
  return program_.intern(name);
}

StmtPtr Parser::parse_for() {
  StmtPtr stmt = make_stmt(StmtKind::kFor);
  advance();
  stmt->target = parse_target(false, "in");
  expect_name("in");
  stmt->expr = parse_tuple(false, false, "recursive");
  if (skip_name("if")) stmt->test = parse_expression();
  stmt->recursive = skip_name("recursive");
  const bool outer_loop = in_loop_;
  in_loop_ = true;
  stmt->body.statements = parse_body({"endfor", "else"});
  // Of a recursive loop, body and else part are a function of their own.
  in_loop_ = outer_loop && !stmt->recursive;
  if (skip_name("else")) stmt->else_body.statements = parse_body({"endfor"});
  in_loop_ = outer_loop;
  expect_name("endfor");
  return stmt;
}

StmtPtr Parser::parse_if() {
  StmtPtr stmt = make_stmt(StmtKind::kIf);
  do {
    advance();  // if, elif
    ExprPtr test = parse_tuple(false, false);
    std::vector<StmtPtr> statements = parse_body({"elif", "else", "endif"});
    stmt->branches.push_back({std::move(test), {std::move(statements), {}}});
  } while (is_name("elif"));
  if (skip_name("else")) stmt->else_body.statements = parse_body({"endif"});
  expect_name("endif");
  return stmt;
}

StmtPtr Parser::parse_set() {
  StmtPtr stmt = make_stmt(StmtKind::kSet);
  advance();
  stmt->target = parse_target(true);
  if (skip_op("=")) {
    stmt->expr = parse_tuple();
    return stmt;
  }
  stmt->kind = StmtKind::kSetBlock;
  stmt->expr = parse_filter(nullptr);
  stmt->body.statements = parse_body({"endset"});
  expect_name("endset");
  return stmt;
}

void Parser::parse_signature(Stmt& stmt) {
  expect_op("(");
  while (!is_op(")")) {
    if (!stmt.params.empty()) expect_op(",");
    const Symbol param = parse_target_name();
    if (std::find(stmt.params.begin(), stmt.params.end(), param) != stmt.params.end())
      fail("duplicate argument '" + *param + "' in function definition");
    stmt.params.push_back(param);
    if (skip_op("="))
      stmt.defaults.push_back(parse_expression());
    else if (!stmt.defaults.empty())
      fail("non-default argument follows default argument");
  }
  expect_op(")");
}

StmtPtr Parser::parse_macro() {
  StmtPtr stmt = make_stmt(StmtKind::kMacro);
  advance();
  stmt->name = parse_target_name();
  parse_signature(*stmt);
  const bool outer_loop = in_loop_;
  in_loop_ = false;
  stmt->body.statements = parse_body({"endmacro"});
  in_loop_ = outer_loop;
  expect_name("endmacro");
  return stmt;
}

StmtPtr Parser::parse_call_block() {
  StmtPtr stmt = make_stmt(StmtKind::kCallBlock);
  advance();
  if (is_op("(")) parse_signature(*stmt);
  stmt->expr = parse_expression();
  if (stmt->expr->kind != ExprKind::kCall) fail("expected call");
  const bool outer_loop = in_loop_;
  in_loop_ = false;
  stmt->body.statements = parse_body({"endcall"});
  in_loop_ = outer_loop;
  expect_name("endcall");
  return stmt;
}

StmtPtr Parser::parse_filter_block() {
  StmtPtr stmt = make_stmt(StmtKind::kFilterBlock);
  advance();
  stmt->expr = parse_filter(nullptr, true);
  stmt->body.statements = parse_body({"endfilter"});
  expect_name("endfilter");
  return stmt;
}

StmtPtr Parser::parse_with() {
  StmtPtr stmt = make_stmt(StmtKind::kWith);
  advance();
  while (!is(TokenType::kBlockEnd)) {
    if (!stmt->targets.empty()) expect_op(",");
    stmt->targets.push_back(parse_target(false));
    expect_op("=");
    stmt->exprs.push_back(parse_expression());
  }
  stmt->body.statements = parse_body({"endwith"});
  expect_name("endwith");
  return stmt;
}

StmtPtr Parser::parse_block() {
  StmtPtr stmt = make_stmt(StmtKind::kBlock);
  advance();
  const std::string name = expect_any_name();
  if (!block_names_.insert(name).second) fail("block '" + name + "' defined twice");
  skip_name("scoped");
  if (is_name("required")) fail("required blocks are not supported");
  const bool outer_loop = in_loop_;
  in_loop_ = false;
  stmt->body.statements = parse_body({"endblock"});
  in_loop_ = outer_loop;
  expect_name("endblock");
  skip_name(name);
  return stmt;
}

StmtPtr Parser::parse_autoescape() {
  StmtPtr stmt = make_stmt(StmtKind::kScope);
  advance();
  const ExprPtr value = parse_expression();
  if (value->kind != ExprKind::kConst || truthy(value->value)) fail("autoescape is not supported");
  stmt->body.statements = parse_body({"endautoescape"});
  expect_name("endautoescape");
  return stmt;
}

// {% generation %} marks what the assistant writes, for training masks; the text is rendered as it
// is.
StmtPtr Parser::parse_generation() {
  StmtPtr stmt = make_stmt(StmtKind::kScope);
  advance();
  const bool outer_loop = in_loop_;
  in_loop_ = false;
  stmt->body.statements = parse_body({"endgeneration"});
  in_loop_ = outer_loop;
  expect_name("endgeneration");
  return stmt;
}

StmtPtr Parser::parse_print() {
  StmtPtr stmt = make_stmt(StmtKind::kOutput);
  advance();
  while (!is(TokenType::kBlockEnd)) {
    if (!stmt->exprs.empty()) expect_op(",");
    stmt->exprs.push_back(parse_expression());
  }
  return stmt;
}

// A chat template is one file: tags that load another fail when they are reached, as in an
// environment without a loader.
StmtPtr Parser::parse_refused() {
  StmtPtr stmt = make_stmt(StmtKind::kRefuse);
  const std::string tag = current().text;
  stmt->name = program_.intern(tag);
  advance();
  parse_expression();
  if (tag == "import") {
    expect_name("as");
    parse_target_name();
  }
  while (!is(TokenType::kBlockEnd) && !is(TokenType::kEnd)) advance();
  return stmt;
}

std::unique_ptr<const Program> parse(std::string_view source) {
  auto program = std::make_unique<Program>();
  Parser(*program, tokenize(source)).parse_template();
  resolve_scopes(*program);
  return program;
}

}  // namespace nanovllm::jinja
