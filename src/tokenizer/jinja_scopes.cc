// What jinja2's compiler works out before a template runs: which names a scope shadows, which
// special names a macro or a loop uses, and whether filters and tests exist.
#include <algorithm>
#include <map>

#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_lexer.h"

namespace nanovllm::jinja {

namespace {

// Calls visit(symbol, is_load) for every name of an expression.
template <typename Visit>
void walk(const Expr* expr, bool load, const Visit& visit) {
  if (!expr) return;
  if (expr->kind == ExprKind::kName) visit(expr->name, load);
  for (const ExprPtr& item : expr->items) walk(item.get(), load, visit);
  for (const auto& keyword : expr->keywords) walk(keyword.second.get(), load, visit);
  walk(expr->star_args.get(), load, visit);
  walk(expr->star_keywords.get(), load, visit);
}

// The same for statements and everything below them.
template <typename Visit>
void walk(const std::vector<StmtPtr>& statements, const Visit& visit) {
  for (const StmtPtr& stmt : statements) {
    if (stmt->kind == StmtKind::kBlock) continue;
    walk(stmt->target.get(), false, visit);
    walk(stmt->expr.get(), true, visit);
    for (const Symbol param : stmt->params) visit(param, false);
    for (const ExprPtr& expr : stmt->defaults) walk(expr.get(), true, visit);
    for (const ExprPtr& expr : stmt->exprs) walk(expr.get(), true, visit);
    for (const ExprPtr& target : stmt->targets) walk(target.get(), false, visit);
    for (const Branch& branch : stmt->branches) {
      walk(branch.test.get(), true, visit);
      walk(branch.body.statements, visit);
    }
    walk(stmt->body.statements, visit);
    walk(stmt->else_body.statements, visit);
    walk(stmt->test.get(), true, visit);
  }
}

bool reads(const std::vector<StmtPtr>& statements, Symbol name) {
  if (!name) return false;
  bool read = false, stored = false;
  walk(statements, [&](Symbol symbol, bool load) {
    if (symbol != name) return;
    if (load && !stored) read = true;
    if (!load) stored = true;
  });
  return read;
}

// The names one scope knows, and how each starts out. A branch of an if holds only what it adds to
// its base.
struct Symbols {
  const Symbols* parent = nullptr;  // the scope around this one
  const Symbols* base = nullptr;    // the same scope, before the if
  std::map<Symbol, bool> refs;      // name -> starts undefined
  std::set<Symbol> stores;

  bool known(Symbol name) const {
    for (const Symbols* s = this; s; s = s->base)
      if (s->refs.count(name)) return true;
    return false;
  }
  bool stored(Symbol name) const {
    for (const Symbols* s = this; s; s = s->base)
      if (s->stores.count(name)) return true;
    return false;
  }
  bool known_outside(Symbol name) const {
    for (const Symbols* s = parent; s; s = s->parent)
      if (s->known(name)) return true;
    return false;
  }
  void param(Symbol name) {
    refs[name] = false;
    stores.insert(name);
  }
  void load(Symbol name) {
    if (!known(name) && !known_outside(name)) refs[name] = false;
  }
  void store(Symbol name) {
    stores.insert(name);
    if (!known(name)) refs[name] = !known_outside(name);
  }
  // Names that only some branches store fall back on the context.
  void merge(const std::vector<Symbols>& branches) {
    std::set<Symbol> fresh;
    for (const Symbols& branch : branches)
      for (const Symbol name : branch.stores)
        if (!stored(name)) fresh.insert(name);
    for (const Symbols& branch : branches) {
      for (const auto& [name, undefined] : branch.refs) refs[name] = undefined;
      stores.insert(branch.stores.begin(), branch.stores.end());
    }
    for (const Symbol name : fresh) refs[name] = false;
  }
};

class ScopeResolver {
 public:
  explicit ScopeResolver(const Program& program)
      : loop_(program.find("loop")),
        caller_(program.find("caller")),
        varargs_(program.find("varargs")),
        kwargs_(program.find("kwargs")) {}

  // body is a scope with these names already bound.
  void scope(Body& body, const Symbols* parent, const std::vector<Symbol>& bound,
             const Stmt* macro = nullptr) {
    Symbols symbols;
    symbols.parent = parent;
    for (const Symbol name : bound) symbols.param(name);
    if (macro)
      for (const ExprPtr& expr : macro->defaults) load(expr.get(), symbols);
    collect(body.statements, symbols);
    for (const auto& [name, undefined] : symbols.refs)
      if (undefined) body.shadowed.push_back(name);
    descend(body.statements, symbols, false);
  }

 private:
  static void load(const Expr* expr, Symbols& symbols) {
    walk(expr, true, [&](Symbol name, bool) { symbols.load(name); });
  }

  static void store(const Expr* target, Symbols& symbols) {
    if (target->kind == ExprKind::kName)
      symbols.store(target->name);
    else if (target->kind == ExprKind::kNamespaceRef)
      symbols.load(target->name);
    for (const ExprPtr& item : target->items) store(item.get(), symbols);
  }

  // The names that the statements of one scope touch, in order; stops where another scope begins.
  void collect(const std::vector<StmtPtr>& statements, Symbols& symbols) {
    for (const StmtPtr& stmt : statements) {
      switch (stmt->kind) {
        case StmtKind::kOutput:
        case StmtKind::kWith:
          for (const ExprPtr& expr : stmt->exprs) load(expr.get(), symbols);
          break;
        case StmtKind::kFor:
        case StmtKind::kCallBlock:
        case StmtKind::kFilterBlock:
          load(stmt->expr.get(), symbols);
          break;
        case StmtKind::kSet:
          load(stmt->expr.get(), symbols);
          [[fallthrough]];
        case StmtKind::kSetBlock:
          store(stmt->target.get(), symbols);
          break;
        case StmtKind::kMacro:
          symbols.store(stmt->name);
          break;
        case StmtKind::kIf:
          collect_if(*stmt, symbols);
          break;
        default:
          break;
      }
    }
  }

  // jinja2 sees all elif parts as one branch beside body and else.
  void collect_if(const Stmt& stmt, Symbols& symbols) {
    load(stmt.branches[0].test.get(), symbols);
    std::vector<Symbols> parts(3, Symbols{symbols.parent, &symbols, {}, {}});
    collect(stmt.branches[0].body.statements, parts[0]);
    for (size_t i = 1; i < stmt.branches.size(); ++i) {
      load(stmt.branches[i].test.get(), parts[1]);
      std::vector<Symbols> body(1, Symbols{symbols.parent, &parts[1], {}, {}});
      collect(stmt.branches[i].body.statements, body[0]);
      parts[1].merge(body);
    }
    collect(stmt.else_body.statements, parts[2]);
    symbols.merge(parts);
  }

  // Child scopes of these statements, and the existence of filters and tests. soft: directly inside
  // an if, where an unknown filter is an error only when it is reached.
  void descend(std::vector<StmtPtr>& statements, const Symbols& symbols, bool soft) {
    for (StmtPtr& stmt : statements) {
      const bool own_frame =
          stmt->kind == StmtKind::kSetBlock || stmt->kind == StmtKind::kFilterBlock;
      check(stmt->expr.get(), soft && !own_frame);
      check(stmt->test.get(), false);
      for (const ExprPtr& expr : stmt->exprs) check(expr.get(), soft);
      for (const ExprPtr& expr : stmt->defaults) check(expr.get(), false);
      switch (stmt->kind) {
        case StmtKind::kFor: {
          std::vector<Symbol> bound;
          walk(stmt->target.get(), false, [&](Symbol name, bool) { bound.push_back(name); });
          forbid_loop_target(*stmt, bound);
          stmt->uses_loop = stmt->recursive || reads(stmt->body.statements, loop_);
          if (stmt->uses_loop && loop_) bound.push_back(loop_);
          scope(stmt->body, &symbols, bound);
          scope(stmt->else_body, &symbols, {});
          break;
        }
        case StmtKind::kMacro:
        case StmtKind::kCallBlock: {
          const auto uses = [&](Symbol name) {
            return reads(stmt->body.statements, name) &&
                   std::find(stmt->params.begin(), stmt->params.end(), name) == stmt->params.end();
          };
          stmt->uses_caller = uses(caller_);
          stmt->uses_varargs = uses(varargs_);
          stmt->uses_kwargs = uses(kwargs_);
          std::vector<Symbol> bound = stmt->params;
          if (stmt->uses_caller) bound.push_back(caller_);
          if (stmt->uses_varargs) bound.push_back(varargs_);
          if (stmt->uses_kwargs) bound.push_back(kwargs_);
          scope(stmt->body, &symbols, bound, stmt.get());
          break;
        }
        case StmtKind::kWith: {
          std::vector<Symbol> bound;
          for (const ExprPtr& target : stmt->targets)
            walk(target.get(), false, [&](Symbol name, bool) { bound.push_back(name); });
          scope(stmt->body, &symbols, bound);
          break;
        }
        case StmtKind::kIf:
          for (Branch& branch : stmt->branches) {
            check(branch.test.get(), true);
            descend(branch.body.statements, symbols, true);
          }
          descend(stmt->else_body.statements, symbols, true);
          break;
        case StmtKind::kBlock:
          scope(stmt->body, nullptr, {});
          break;
        case StmtKind::kSetBlock:
        case StmtKind::kFilterBlock:
        case StmtKind::kScope:
          scope(stmt->body, &symbols, {});
          break;
        default:
          break;
      }
    }
  }

  void forbid_loop_target(const Stmt& stmt, const std::vector<Symbol>& bound) const {
    bool stored = loop_ && std::find(bound.begin(), bound.end(), loop_) != bound.end();
    const auto visit = [&](Symbol name, bool load) { stored |= loop_ && name == loop_ && !load; };
    walk(stmt.body.statements, visit);
    walk(stmt.else_body.statements, visit);
    if (stored)
      throw SyntaxError(stmt.line, "Can't assign to special loop variable in for-loop target");
  }

  static void check(const Expr* expr, bool soft) {
    if (!expr) return;
    soft |= expr->kind == ExprKind::kConditional;
    if (!soft && !expr->native &&
        (expr->kind == ExprKind::kFilter || expr->kind == ExprKind::kTest))
      throw SyntaxError(expr->line,
                        std::string(expr->kind == ExprKind::kFilter ? "No filter" : "No test") +
                            " named '" + *expr->name + "'.");
    for (const ExprPtr& item : expr->items) check(item.get(), soft);
    for (const auto& keyword : expr->keywords) check(keyword.second.get(), soft);
    check(expr->star_args.get(), soft);
    check(expr->star_keywords.get(), soft);
  }

  const Symbol loop_, caller_, varargs_, kwargs_;
};

}  // namespace

void resolve_scopes(Program& program) {
  // The interpreter binds these by name.
  for (const char* name : {"loop", "caller", "varargs", "kwargs"}) program.intern(name);
  ScopeResolver(program).scope(program.body, nullptr, {});
}

}  // namespace nanovllm::jinja
