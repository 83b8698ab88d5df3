// Interpreter: runs one parsed template over one context, once. It owns everything mutable of that
// render: the scopes, and the namespaces, macros and loops that values point to.
//
// jinja_interpreter.cc holds scopes and statements, jinja_evaluate.cc expressions, jinja_objects.cc
// macros and loops.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat_template.h"
#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_value.h"

namespace nanovllm::jinja {

inline constexpr int kMaxDepth = 1200;  // nested evaluations

struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<Symbol, Value>> variables;
  bool captured = false;  // a macro or a generator may still look into it after it has been left

  Value* find(Symbol name);
  void set(Symbol name, Value value);
};

class Interpreter {
 public:
  Interpreter(const Program& program, const RenderLimits& limits);
  std::string run(const nlohmann::ordered_json& context);
  int line() const { return line_; }  // of the last statement or call begun, for error messages

  // ---- for the library of filters, tests, methods and functions
  // ------------------------------------------------------
  Value get_attribute(const Value& object, std::string_view name);  // object.name
  Value get_item(const Value& object, const Value& index);          // object[index]
  Value call(const Value& callee, Args& args);
  Value call_filter(const std::string& name, const Value& input, Args& args);
  bool call_test(const std::string& name, const Value& input, Args& args);
  Value invoke(NativeFunction function, const Value& self, Args& args);  // charges for the work
  void charge(uint64_t steps) {
    if ((steps_ += steps) > limits_.steps) throw Failure("the template takes too many steps");
  }
  void charge_memory(uint64_t bytes) {
    if ((allocated_ += bytes) > limits_.allocated_bytes)
      throw Failure("the template uses too much memory");
  }

  template <typename T, typename... A>
  T* make_object(A&&... args) {
    charge_memory(sizeof(T) + 64);
    auto object = std::make_unique<T>(std::forward<A>(args)...);
    T* raw = object.get();
    objects_.push_back(std::move(object));
    return raw;
  }

  // ---- for macros and loops
  // ----------------------------------------------------------------------------------------
  std::string run_macro(const Stmt& macro, Scope* definition, Args& args, const std::string& name);
  std::string run_recursive_loop(const Stmt& loop, Scope* definition, const Value& iterable,
                                 int depth);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  class Enter;    // a scope, for as long as it lives
  class Capture;  // output into a string of its own, for as long as it lives
  // One level of the evaluator's recursion, which bounds the C++ stack.
  class Deeper {
   public:
    explicit Deeper(Interpreter& interpreter) : interpreter_(interpreter) {
      if (interpreter.depth_ >= kMaxDepth) throw Failure("the template recurses too deeply");
      ++interpreter.depth_;
    }
    ~Deeper() { --interpreter_.depth_; }

   private:
    Interpreter& interpreter_;
  };

  Flow execute(const std::vector<StmtPtr>& statements);
  Flow execute(const Stmt& stmt);
  Flow execute_body(const Body& body);  // in a scope of its own
  Flow execute_for(const Stmt& stmt, Scope* definition, const Value& iterable, int depth);
  Flow execute_if(const Stmt& stmt);
  Flow execute_set_block(const Stmt& stmt);
  Flow execute_filter_block(const Stmt& stmt);
  Flow execute_with(const Stmt& stmt);
  void execute_output(const Stmt& stmt);
  void execute_call_block(const Stmt& stmt);
  void execute_block(const Stmt& stmt);
  Value filtered(const Stmt& loop, Scope* definition, const Value& iterable);
  void assign(const Expr& target, const Value& value);
  void write(const std::string& text);
  void shadow(const Body& body);
  void capture_scopes(Scope* scope);
  Value from_json(const nlohmann::ordered_json& json, int depth);

  Value evaluate(const Expr& expr);
  Value evaluate_name(const Expr& expr);
  Value evaluate_dict(const Expr& expr);
  Value evaluate_conditional(const Expr& expr);
  Value evaluate_compare(const Expr& expr);
  Value evaluate_concat(const Expr& expr);
  Value evaluate_binary(const Expr& expr);
  Value evaluate_unary(const Expr& expr);
  Value evaluate_item(const Expr& expr);
  Value evaluate_slice(const Value& object, const Expr& slice);
  Value evaluate_call(const Expr& expr, const Value* caller);
  Value evaluate_native(const Expr& expr);  // filters and tests
  Values evaluate_all(const std::vector<ExprPtr>& exprs, size_t first);
  void evaluate_arguments(const Expr& expr, Args& args);

  const Program& program_;
  const RenderLimits limits_;
  const Symbol loop_, caller_, varargs_, kwargs_;
  uint64_t steps_ = 0, allocated_ = 0;
  int depth_ = 0, line_ = 1;
  std::vector<std::unique_ptr<Object>> objects_;
  std::vector<std::unique_ptr<Scope>> captured_scopes_;
  Scope context_, root_;
  Scope* scope_ = &context_;
  std::string* out_ = nullptr;
  uint64_t written_ = 0;                // by all buffers together
  const Value* block_input_ = nullptr;  // what a filter block feeds its filter
};

// a + b and so on, with Python's meaning for every pair of types.
Value binary_operation(const std::string& op, const Value& a, const Value& b);
Value unary_operation(const std::string& op, const Value& a);

class Namespace : public Object {
 public:
  const char* type_name() const override { return "Namespace"; }
  bool attribute(std::string_view name, Value& out) override;
  void set(const std::string& name, Value value);

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

class Macro : public Object {
 public:
  Macro(const Stmt& stmt, Scope* definition, std::string name)
      : stmt_(stmt), definition_(definition), name_(std::move(name)) {}
  const char* type_name() const override { return "Macro"; }
  bool callable() const override { return true; }
  bool attribute(std::string_view name, Value& out) override;
  Value call(Interpreter& interpreter, Args& args) override;

 private:
  const Stmt& stmt_;
  Scope* definition_;
  std::string name_;
};

// The variable `loop`.
class Loop : public Object {
 public:
  Loop(const Stmt& stmt, Scope* definition, const Value& iterable, int depth0)
      : stmt_(stmt),
        definition_(definition),
        iterable_(iterable),
        iterator_(iterable),
        depth0_(depth0) {}
  bool next(Value& out);

  const char* type_name() const override { return "LoopContext"; }
  bool callable() const override { return true; }
  bool attribute(std::string_view name, Value& out) override;
  Value call(Interpreter& interpreter, Args& args) override;
  bool length(int64_t& out) override;
  bool changed(const Values& values);
  Value cycle(const Values& values) const;

 private:
  int64_t count();
  bool peek();

  const Stmt& stmt_;
  Scope* definition_;
  Value iterable_;
  Iterator iterator_;
  int depth0_;
  int64_t index0_ = -1, length_ = -1;
  bool has_after_ = false, has_changed_ = false;
  Value after_, current_, before_;
  Values last_changed_;
};

}  // namespace nanovllm::jinja
