#include "tokenizer/jinja_interpreter.h"

#include "tokenizer/jinja_library.h"

namespace nanovllm::jinja {

Value* Scope::find(Symbol name) {
  for (auto& [symbol, value] : variables)
    if (symbol == name) return &value;
  return nullptr;
}

void Scope::set(Symbol name, Value value) {
  if (Value* old = find(name))
    *old = std::move(value);
  else
    variables.emplace_back(name, std::move(value));
}

class Interpreter::Enter {
 public:
  Enter(Interpreter& interpreter, Scope* parent)
      : interpreter_(interpreter), outer_(interpreter.scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    interpreter.scope_ = scope_.get();
  }
  ~Enter() {
    interpreter_.scope_ = outer_;
    if (scope_->captured) interpreter_.captured_scopes_.push_back(std::move(scope_));
  }

 private:
  Interpreter& interpreter_;
  Scope* outer_;
  std::unique_ptr<Scope> scope_;
};

class Interpreter::Capture {
 public:
  explicit Capture(Interpreter& interpreter) : interpreter_(interpreter), outer_(interpreter.out_) {
    interpreter.out_ = &text;
  }
  ~Capture() { interpreter_.out_ = outer_; }
  std::string text;

 private:
  Interpreter& interpreter_;
  std::string* outer_;
};

Interpreter::Interpreter(const Program& program, const RenderLimits& limits)
    : program_(program),
      limits_(limits),
      loop_(program.find("loop")),
      caller_(program.find("caller")),
      varargs_(program.find("varargs")),
      kwargs_(program.find("kwargs")) {}

Value Interpreter::from_json(const nlohmann::ordered_json& json, int depth) {
  if (depth > static_cast<int>(kMaxValueDepth)) throw Failure("the context is nested too deeply");
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean:
      return Value::boolean(json.get<bool>());
    case Type::number_integer:
      return Value::integer(json.get<int64_t>());
    case Type::number_unsigned: {
      const auto n = json.get<uint64_t>();
      return n <= INT64_MAX ? Value::integer(static_cast<int64_t>(n))
                            : Value::big_integer(std::to_string(n));
    }
    case Type::number_float:
      return Value::real(json.get<double>());
    case Type::string:
      return Value::string(json.get_ref<const std::string&>());
    case Type::array: {
      Values items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json(item, depth + 1));
      return Value::list(std::move(items));
    }
    case Type::object: {
      std::vector<std::pair<Value, Value>> items;
      items.reserve(json.size());
      for (const auto& [key, value] : json.items())
        items.emplace_back(Value::string(key), from_json(value, depth + 1));
      return Value::dict(std::move(items));
    }
    default:
      return Value::none();
  }
}

std::string Interpreter::run(const nlohmann::ordered_json& context) {
  if (!context.is_object()) throw Failure("the context is not an object");
  for (const auto& [key, value] : context.items())
    if (const Symbol name = program_.find(key)) context_.set(name, from_json(value, 0));
  std::string out;
  out_ = &out;
  root_.parent = &context_;
  scope_ = &root_;
  shadow(program_.body);
  execute(program_.body.statements);
  return out;
}

void Interpreter::write(const std::string& text) {
  written_ += text.size();
  if (written_ > limits_.output_bytes) throw Failure("the output is too large");
  *out_ += text;
}

void Interpreter::shadow(const Body& body) {
  for (const Symbol name : body.shadowed) scope_->set(name, Value());
}

void Interpreter::capture_scopes(Scope* scope) {
  for (; scope && !scope->captured; scope = scope->parent) {
    scope->captured = true;
    charge_memory(sizeof(Scope));
  }
}

Interpreter::Flow Interpreter::execute(const std::vector<StmtPtr>& statements) {
  Deeper deeper(*this);
  for (const StmtPtr& stmt : statements)
    if (const Flow flow = execute(*stmt); flow != Flow::kNext) return flow;
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_body(const Body& body) {
  Enter enter(*this, scope_);
  shadow(body);
  return execute(body.statements);
}

Interpreter::Flow Interpreter::execute(const Stmt& stmt) {
  line_ = stmt.line;
  charge(1);
  switch (stmt.kind) {
    case StmtKind::kOutput:
      execute_output(stmt);
      break;
    case StmtKind::kFor:
      if (stmt.recursive) {
        write(run_recursive_loop(stmt, scope_, evaluate(*stmt.expr), 0));
        break;
      }
      return execute_for(stmt, scope_, evaluate(*stmt.expr), 0);
    case StmtKind::kIf:
      return execute_if(stmt);
    case StmtKind::kSet:
      assign(*stmt.target, evaluate(*stmt.expr));
      break;
    case StmtKind::kSetBlock:
      return execute_set_block(stmt);
    case StmtKind::kMacro:
      capture_scopes(scope_);
      scope_->set(stmt.name, Value::object(make_object<Macro>(stmt, scope_, *stmt.name)));
      break;
    case StmtKind::kCallBlock:
      execute_call_block(stmt);
      break;
    case StmtKind::kFilterBlock:
      return execute_filter_block(stmt);
    case StmtKind::kWith:
      return execute_with(stmt);
    case StmtKind::kScope:
      return execute_body(stmt.body);
    case StmtKind::kBlock:
      execute_block(stmt);
      break;
    case StmtKind::kBreak:
      return Flow::kBreak;
    case StmtKind::kContinue:
      return Flow::kContinue;
    case StmtKind::kRefuse:
      throw Failure("'" + *stmt.name + "' is not supported: a chat template is one file");
  }
  return Flow::kNext;
}

void Interpreter::execute_output(const Stmt& stmt) {
  for (const ExprPtr& expr : stmt.exprs) {
    if (expr->kind == ExprKind::kConst && expr->value.is_string()) {
      write(expr->value.text());
      continue;
    }
    line_ = expr->line;
    const Value value = evaluate(*expr);
    charge(value.weight() >> 10);
    write(value.is_string() ? value.text() : str(value));
  }
}

Interpreter::Flow Interpreter::execute_if(const Stmt& stmt) {
  for (const Branch& branch : stmt.branches)
    if (truthy(evaluate(*branch.test))) return execute(branch.body.statements);
  return execute(stmt.else_body.statements);
}

Interpreter::Flow Interpreter::execute_for(const Stmt& stmt, Scope* definition, const Value& source,
                                           int depth) {
  const Value iterable = stmt.test ? filtered(stmt, definition, source) : source;
  Loop* loop = nullptr;
  Iterator iterator(iterable);
  if (stmt.uses_loop) {
    capture_scopes(definition);
    loop = make_object<Loop>(stmt, definition, iterable, depth);
  }
  // The else part runs unless some iteration came to its end: jinja2 clears the flag as the body's
  // last act, so break and continue leave it set.
  bool completed = false;
  for (Value item; loop ? loop->next(item) : iterator.next(item);) {
    charge(1);
    Enter enter(*this, definition);
    if (loop) scope_->set(loop_, Value::object(loop));
    shadow(stmt.body);
    assign(*stmt.target, item);
    const Flow flow = execute(stmt.body.statements);
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNext) completed = true;
  }
  if (completed || stmt.else_body.statements.empty()) return Flow::kNext;
  Enter enter(*this, definition);
  shadow(stmt.else_body);
  return execute(stmt.else_body.statements);
}

// The items that pass the loop's `if`, tested one by one as the loop asks for them.
Value Interpreter::filtered(const Stmt& stmt, Scope* definition, const Value& iterable) {
  capture_scopes(definition);
  auto iterator = std::make_shared<Iterator>(iterable);
  return Value::generator("generator", iterable, [this, &stmt, definition, iterator](Value& out) {
    Deeper deeper(*this);
    while (iterator->next(out)) {
      charge(1);
      Enter enter(*this, definition);
      assign(*stmt.target, out);
      if (truthy(evaluate(*stmt.test))) return true;
    }
    return false;
  });
}

std::string Interpreter::run_recursive_loop(const Stmt& stmt, Scope* definition,
                                            const Value& iterable, int depth) {
  Deeper deeper(*this);
  Capture capture(*this);
  execute_for(stmt, definition, iterable, depth);
  charge_memory(capture.text.size());
  return std::move(capture.text);
}

Interpreter::Flow Interpreter::execute_set_block(const Stmt& stmt) {
  Value value;
  {
    Enter enter(*this, scope_);
    shadow(stmt.body);
    {
      Capture capture(*this);
      if (const Flow flow = execute(stmt.body.statements); flow != Flow::kNext) return flow;
      charge_memory(capture.text.size());
      value = Value::string(std::move(capture.text));
    }
    if (stmt.expr) {
      const Value* const outer = std::exchange(block_input_, &value);
      Value result = evaluate(*stmt.expr);
      block_input_ = outer;
      value = std::move(result);
    }
  }
  assign(*stmt.target, value);
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_filter_block(const Stmt& stmt) {
  Enter enter(*this, scope_);
  shadow(stmt.body);
  Value value;
  {
    Capture capture(*this);
    if (const Flow flow = execute(stmt.body.statements); flow != Flow::kNext) return flow;
    charge_memory(capture.text.size());
    value = Value::string(std::move(capture.text));
  }
  const Value* const outer = std::exchange(block_input_, &value);
  const Value result = evaluate(*stmt.expr);
  block_input_ = outer;
  write(str(result));
  return Flow::kNext;
}

Interpreter::Flow Interpreter::execute_with(const Stmt& stmt) {
  Scope* const outside = scope_;
  Enter enter(*this, outside);
  Scope* const inside = scope_;
  shadow(stmt.body);
  for (size_t i = 0; i < stmt.targets.size(); ++i) {
    scope_ = outside;
    const Value value = evaluate(*stmt.exprs[i]);
    scope_ = inside;
    assign(*stmt.targets[i], value);
  }
  return execute(stmt.body.statements);
}

void Interpreter::execute_call_block(const Stmt& stmt) {
  capture_scopes(scope_);
  const Value caller = Value::object(make_object<Macro>(stmt, scope_, "caller"));
  write(str(evaluate_call(*stmt.expr, &caller)));
}

void Interpreter::execute_block(const Stmt& stmt) {
  Enter enter(*this, &root_);
  shadow(stmt.body);
  execute(stmt.body.statements);
}

void Interpreter::assign(const Expr& target, const Value& value) {
  if (target.kind == ExprKind::kName) {
    scope_->set(target.name, value);
  } else if (target.kind == ExprKind::kNamespaceRef) {
    const Value holder = evaluate_name(target);
    auto* space = holder.is(Kind::kObject) ? dynamic_cast<Namespace*>(holder.object()) : nullptr;
    if (!space) throw Failure("cannot assign attribute on non-namespace object");
    space->set(*target.attribute, value);
  } else {
    Values items;
    Iterator iterator(value);
    for (Value item; items.size() <= target.items.size() && iterator.next(item);)
      items.push_back(item);
    if (items.size() > target.items.size())
      throw Failure("too many values to unpack (expected " + std::to_string(target.items.size()) +
                    ")");
    if (items.size() < target.items.size())
      throw Failure("not enough values to unpack (expected " + std::to_string(target.items.size()) +
                    ", got " + std::to_string(items.size()) + ")");
    for (size_t i = 0; i < items.size(); ++i) assign(*target.items[i], items[i]);
  }
}

std::string Interpreter::run_macro(const Stmt& macro, Scope* definition, Args& args,
                                   const std::string& name) {
  Deeper deeper(*this);
  charge(1);
  Enter enter(*this, definition);
  shadow(macro.body);
  const size_t num_params = macro.params.size();
  const auto take = [&](const std::string& keyword, Value& out) {
    for (auto it = args.keywords.begin(); it != args.keywords.end(); ++it) {
      if (it->first != keyword) continue;
      out = std::move(it->second);
      args.keywords.erase(it);
      return true;
    }
    return false;
  };
  bool explicit_caller = false;
  for (size_t i = 0; i < num_params; ++i) {
    const std::string& param = *macro.params[i];
    Value value;
    explicit_caller |= param == "caller";
    if (i < args.positional.size()) {
      scope_->set(macro.params[i], args.positional[i]);
    } else if (take(param, value)) {
      scope_->set(macro.params[i], std::move(value));
    } else {
      // Filled below: a default may use the parameters before it.
      scope_->set(macro.params[i], Value());
    }
  }
  if (macro.uses_caller && !explicit_caller) {
    Value caller;
    if (!take("caller", caller) || caller.is_none()) caller = Value::undefined("No caller defined");
    scope_->set(caller_, std::move(caller));
  }
  if (macro.uses_kwargs) {
    std::vector<std::pair<Value, Value>> items;
    for (auto& [key, value] : args.keywords)
      items.emplace_back(Value::string(key), std::move(value));
    scope_->set(kwargs_, Value::dict(std::move(items)));
  } else if (!args.keywords.empty()) {
    throw Failure("macro '" + name + "' takes no keyword argument '" + args.keywords[0].first +
                  "'");
  }
  if (macro.uses_varargs) {
    Values rest;
    for (size_t i = num_params; i < args.positional.size(); ++i)
      rest.push_back(std::move(args.positional[i]));
    scope_->set(varargs_, Value::tuple(std::move(rest)));
  } else if (args.positional.size() > num_params) {
    throw Failure("macro '" + name + "' takes not more than " + std::to_string(num_params) +
                  " argument(s)");
  }
  for (size_t i = args.positional.size(); i < num_params; ++i) {
    Value* const bound = scope_->find(macro.params[i]);
    if (!bound->is_undefined() || bound->identity()) continue;  // given
    const size_t first_default = num_params - macro.defaults.size();
    Value value = i >= first_default
                      ? evaluate(*macro.defaults[i - first_default])
                      : Value::undefined("parameter '" + *macro.params[i] + "' was not provided");
    scope_->set(macro.params[i], std::move(value));
  }
  Capture capture(*this);
  execute(macro.body.statements);
  charge_memory(capture.text.size());
  return std::move(capture.text);
}

}  // namespace nanovllm::jinja
