// The parsed template: a tree of statements and expressions. Immutable once parsed; names are
// interned, so that the interpreter compares pointers.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tokenizer/jinja_value.h"

namespace nanovllm::jinja {

using Symbol = const std::string*;

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

enum class ExprKind : uint8_t {
  kConst,         // value
  kName,          // name
  kNamespaceRef,  // name.attribute, only as the target of a set
  kTuple,
  kList,
  kDict,         // items: key, value, key, value ...
  kConditional,  // items: test, then, else (null: none)
  kOr,
  kAnd,  // items: left, right
  kNot,
  kCompare,    // items: first, then one for each of operators
  kConcat,     // items joined by ~
  kBinary,     // operators[0]; items: left, right
  kUnary,      // operators[0]; items: operand
  kAttribute,  // items: object; name
  kItem,       // items: object, index
  kSlice,      // items: start, stop, step, each may be null
  kCall,       // items: callee, arguments
  kFilter,     // items: input (null in a filter block), arguments; name
  kTest        // items: input, arguments; name
};

struct Expr {
  ExprKind kind;
  int line = 0;
  int depth = 1;  // of the tree below
  Symbol name = nullptr, attribute = nullptr;
  Value value;
  std::vector<ExprPtr> items;
  std::vector<std::string> operators;
  std::vector<std::pair<std::string, ExprPtr>> keywords;
  ExprPtr star_args, star_keywords;  // *args, **kwargs
  NativeFunction native = nullptr;   // of a filter or a test; null if there is none of that name
};

struct Stmt;
using StmtPtr = std::unique_ptr<Stmt>;

struct Body {
  std::vector<StmtPtr> statements;
  // Names that this scope stores before it reads them: they start out undefined here, even if the
  // context has them (what jinja2's compiler makes of them). Filled by resolve_scopes().
  std::vector<Symbol> shadowed;
};

enum class StmtKind : uint8_t {
  kOutput,       // exprs, written one after the other
  kFor,          // for target in expr if test: body, else: else_body
  kIf,           // branches, else_body
  kSet,          // target = expr
  kSetBlock,     // target = body through filter expr (may be null)
  kMacro,        // name(params): body
  kCallBlock,    // call expr with params: body as its caller
  kFilterBlock,  // body through filter expr
  kWith,         // exprs[i] bound to targets[i] in body
  kScope,        // body in a scope of its own
  kBlock,        // body, seeing the outermost scope only
  kBreak,
  kContinue,
  kRefuse  // fails when reached: name says what
};

struct Branch {
  ExprPtr test;
  Body body;
};

struct Stmt {
  StmtKind kind;
  int line = 0;
  Symbol name = nullptr;
  ExprPtr target, expr, test;
  std::vector<ExprPtr> exprs, targets;
  std::vector<Branch> branches;
  Body body, else_body;
  std::vector<Symbol> params;
  std::vector<ExprPtr> defaults;                                        // of the last params
  bool recursive = false, uses_loop = false;                            // kFor
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;  // kMacro, kCallBlock
};

struct Program {
  std::set<std::string, std::less<>> symbols;  // node addresses are stable
  Body body;

  Symbol intern(std::string_view name) {
    auto it = symbols.find(name);
    if (it == symbols.end()) it = symbols.emplace(name).first;
    return &*it;
  }
  Symbol find(std::string_view name) const {
    const auto it = symbols.find(name);
    return it == symbols.end() ? nullptr : &*it;
  }
};

// Throws SyntaxError.
std::unique_ptr<const Program> parse(std::string_view source);

// jinja_scopes.cc: fills Body::shadowed, uses_loop, uses_caller, uses_varargs, uses_kwargs.
void resolve_scopes(Program& program);

}  // namespace nanovllm::jinja
