// The mutable things a template can hold: namespaces, macros, the loop variable.
#include "tokenizer/jinja_interpreter.h"

namespace nanovllm::jinja {

bool Namespace::attribute(std::string_view name, Value& out) {
  for (const auto& [key, value] : attributes_) {
    if (key != name) continue;
    out = value;
    return true;
  }
  return false;
}

void Namespace::set(const std::string& name, Value value) {
  if (name.starts_with("_"))
    throw Failure("Chat templates cannot store underscore-prefixed attributes on a namespace");
  for (auto& [key, old] : attributes_) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  attributes_.emplace_back(name, std::move(value));
}

bool Macro::attribute(std::string_view name, Value& out) {
  if (name == "name")
    out = Value::string(name_);
  else if (name == "catch_kwargs")
    out = Value::boolean(stmt_.uses_kwargs);
  else if (name == "catch_varargs")
    out = Value::boolean(stmt_.uses_varargs);
  else if (name == "caller")
    out = Value::boolean(stmt_.uses_caller);
  else if (name == "arguments") {
    Values names;
    for (const Symbol param : stmt_.params) names.push_back(Value::string(*param));
    out = Value::tuple(std::move(names));
  } else {
    return false;
  }
  return true;
}

Value Macro::call(Interpreter& interpreter, Args& args) {
  return Value::string(interpreter.run_macro(stmt_, definition_, args, name_));
}

bool Loop::next(Value& out) {
  if (has_after_) {
    out = std::move(after_);
    has_after_ = false;
  } else if (!iterator_.next(out)) {
    return false;
  }
  ++index0_;
  before_ = current_;
  current_ = out;
  return true;
}

bool Loop::peek() {
  if (!has_after_) has_after_ = iterator_.next(after_);
  return has_after_;
}

int64_t Loop::count() {
  if (length_ >= 0) return length_;
  if (iterable_.is(Kind::kGenerator)) {
    // No length of its own: what is left is read now.
    Values rest;
    for (Value item; iterator_.next(item);) rest.push_back(std::move(item));
    length_ = static_cast<int64_t>(rest.size()) + index0_ + 1 + (has_after_ ? 1 : 0);
    iterator_ = Iterator(Value::list(std::move(rest)));
  } else {
    length_ = jinja::length(iterable_);
  }
  return length_;
}

bool Loop::length(int64_t& out) {
  out = count();
  return true;
}

bool Loop::changed(const Values& values) {
  if (has_changed_ && equal(Value::tuple(last_changed_), Value::tuple(values))) return false;
  has_changed_ = true;
  last_changed_ = values;
  return true;
}

Value Loop::cycle(const Values& values) const {
  if (values.empty()) throw Failure("no items for cycling given");
  return values[static_cast<size_t>(index0_) % values.size()];
}

bool Loop::attribute(std::string_view name, Value& out) {
  if (name == "index")
    out = Value::integer(index0_ + 1);
  else if (name == "index0")
    out = Value::integer(index0_);
  else if (name == "first")
    out = Value::boolean(index0_ == 0);
  else if (name == "last")
    out = Value::boolean(!peek());
  else if (name == "length")
    out = Value::integer(count());
  else if (name == "revindex")
    out = Value::integer(count() - index0_);
  else if (name == "revindex0")
    out = Value::integer(count() - index0_ - 1);
  else if (name == "depth")
    out = Value::integer(depth0_ + 1);
  else if (name == "depth0")
    out = Value::integer(depth0_);
  else if (name == "previtem")
    out = index0_ == 0 ? Value::undefined("there is no previous item") : before_;
  else if (name == "nextitem")
    out = peek() ? after_ : Value::undefined("there is no next item");
  else if (name == "cycle")
    out = Value::function(
        "cycle",
        [](Interpreter&, const Value& self, Args& args) {
          return static_cast<Loop*>(self.object())->cycle(args.positional);
        },
        Value::object(this));
  else if (name == "changed")
    out = Value::function(
        "changed",
        [](Interpreter&, const Value& self, Args& args) {
          return Value::boolean(static_cast<Loop*>(self.object())->changed(args.positional));
        },
        Value::object(this));
  else
    return false;
  return true;
}

Value Loop::call(Interpreter& interpreter, Args& args) {
  if (!stmt_.recursive)
    throw Failure("The loop must have the 'recursive' marker to be called recursively.");
  const auto bound = args.bind("loop", {"iterable"}, 1);
  return Value::string(interpreter.run_recursive_loop(stmt_, definition_, *bound[0], depth0_ + 1));
}

}  // namespace nanovllm::jinja
