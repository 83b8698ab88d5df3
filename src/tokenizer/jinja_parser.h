// Recursive-descent parser, with jinja2's grammar and precedence. jinja_parser.cc holds the
// statements, jinja_expression_parser.cc the expressions.
#pragma once

#include <initializer_list>
#include <string_view>
#include <vector>

#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_lexer.h"

namespace nanovllm::jinja {

class Parser {
 public:
  Parser(Program& program, std::vector<Token> tokens)
      : program_(program), tokens_(std::move(tokens)) {}
  void parse_template();

 private:
  // jinja_parser.cc
  std::vector<StmtPtr> parse_until(std::initializer_list<std::string_view> end_names);
  std::vector<StmtPtr> parse_body(std::initializer_list<std::string_view> end_names);
  StmtPtr parse_statement();
  StmtPtr parse_for();
  StmtPtr parse_if();
  StmtPtr parse_set();
  StmtPtr parse_macro();
  StmtPtr parse_call_block();
  StmtPtr parse_filter_block();
  StmtPtr parse_with();
  StmtPtr parse_block();
  StmtPtr parse_autoescape();
  StmtPtr parse_generation();
  StmtPtr parse_print();
  StmtPtr parse_refused();
  void parse_signature(Stmt& stmt);
  ExprPtr parse_target(bool with_namespace, std::string_view end_name = {});
  Symbol parse_target_name();

  // jinja_expression_parser.cc
  ExprPtr parse_tuple(bool simplified = false, bool with_conditional = true,
                      std::string_view end_name = {}, bool parenthesized = false,
                      bool with_namespace = false);
  ExprPtr parse_expression(bool with_conditional = true);
  ExprPtr parse_conditional();
  ExprPtr parse_or();
  ExprPtr parse_and();
  ExprPtr parse_not();
  ExprPtr parse_compare();
  ExprPtr parse_sum();
  ExprPtr parse_concat();
  ExprPtr parse_product();
  ExprPtr parse_power();
  ExprPtr parse_unary(bool with_filter = true);
  ExprPtr parse_primary(bool with_namespace = false);
  ExprPtr parse_list();
  ExprPtr parse_dict();
  ExprPtr parse_postfix(ExprPtr node);
  ExprPtr parse_filters_and_tests(ExprPtr node);
  ExprPtr parse_subscript(ExprPtr node);
  ExprPtr parse_index();
  ExprPtr parse_call(ExprPtr callee);
  ExprPtr parse_filter(ExprPtr input, bool inline_start = false);
  ExprPtr parse_test(ExprPtr input);
  void parse_arguments(Expr& call);
  std::string parse_dotted_name();

  const Token& current() const { return tokens_[index_]; }
  const Token& look() const { return tokens_[std::min(index_ + 1, tokens_.size() - 1)]; }
  void advance() {
    if (index_ + 1 < tokens_.size()) ++index_;
  }
  bool is(TokenType type) const { return current().type == type; }
  bool is_op(std::string_view op) const { return is(TokenType::kOperator) && current().text == op; }
  bool is_name(std::string_view name) const {
    return is(TokenType::kName) && current().text == name;
  }
  bool skip_op(std::string_view op) { return is_op(op) && (advance(), true); }
  bool skip_name(std::string_view name) { return is_name(name) && (advance(), true); }
  void expect(TokenType type, const char* what);
  void expect_op(std::string_view op);
  void expect_name(std::string_view name);
  std::string expect_any_name();
  [[noreturn]] void fail(const std::string& what) const { throw SyntaxError(current().line, what); }

  ExprPtr make(ExprKind kind, int line) const;
  ExprPtr make(ExprKind kind, int line, ExprPtr left, ExprPtr right = nullptr) const;
  ExprPtr finish(ExprPtr node) const;  // computes the depth and checks it
  StmtPtr make_stmt(StmtKind kind) const;

  // Counts how deep the descent is; the C++ stack is bounded by it.
  struct Nesting {
    explicit Nesting(Parser& parser) : parser(parser) {
      if (++parser.nesting_ > 400) parser.fail("the template is nested too deeply");
    }
    ~Nesting() { --parser.nesting_; }
    Parser& parser;
  };

  Program& program_;
  std::vector<Token> tokens_;
  size_t index_ = 0;
  int nesting_ = 0;
  bool in_loop_ = false;  // break and continue are allowed
  std::set<std::string> block_names_;
};

}  // namespace nanovllm::jinja
