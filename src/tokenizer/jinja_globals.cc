// Global functions: jinja2's, and the two that Hugging Face adds.
#include <chrono>
#include <ctime>

#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_library.h"

namespace nanovllm::jinja {

namespace {

constexpr int64_t kMaxRange = 100'000;  // as jinja2's sandbox

Value range(Interpreter&, const Value&, Args& args) {
  if (!args.keywords.empty()) throw Failure("range() takes no keyword arguments");
  const Values& a = args.positional;
  if (a.empty() || a.size() > 3) throw Failure("range expected 1 to 3 arguments");
  const int64_t start = a.size() > 1 ? to_index(a[0]) : 0;
  const int64_t stop = to_index(a[a.size() > 1 ? 1 : 0]);
  const int64_t step = a.size() > 2 ? to_index(a[2]) : 1;
  if (step == 0) throw Failure("range() arg 3 must not be zero");
  uint64_t size = 0;
  if (step > 0 && start < stop) {
    size = (static_cast<uint64_t>(stop) - static_cast<uint64_t>(start) - 1) /
               static_cast<uint64_t>(step) +
           1;
  } else if (step < 0 && start > stop) {
    size = (static_cast<uint64_t>(start) - static_cast<uint64_t>(stop) - 1) /
               (0 - static_cast<uint64_t>(step)) +
           1;
  }
  if (size > static_cast<uint64_t>(kMaxRange))
    throw Failure("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  return Value::range({start, stop, step, static_cast<int64_t>(size)});
}

// dict(mapping or pairs, **more): what both dict() and namespace() take.
std::vector<std::pair<Value, Value>> dict_items(const Args& args) {
  if (args.positional.size() > 1) throw Failure("dict expected at most 1 argument");
  std::vector<std::pair<Value, Value>> items;
  if (!args.positional.empty()) {
    const Value& source = args.positional[0];
    if (source.is_undefined()) source.fail_undefined();
    if (source.is(Kind::kDict)) {
      items = source.dict().items;
    } else {
      Iterator it(source);
      for (Value item; it.next(item);) {
        const Values pair = to_vector(item);
        if (pair.size() != 2)
          throw Failure("dictionary update sequence element has a length other than 2");
        items.emplace_back(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [key, value] : args.keywords) items.emplace_back(Value::string(key), value);
  return items;
}

Value make_dict(Interpreter&, const Value&, Args& args) { return Value::dict(dict_items(args)); }

Value make_namespace(Interpreter& interpreter, const Value&, Args& args) {
  auto* space = interpreter.make_object<Namespace>();
  const Value attributes = Value::dict(dict_items(args));
  for (const auto& [key, value] : attributes.dict().items)
    if (key.is_string()) space->set(key.text(), value);
  return Value::object(space);
}

Value raise_exception(Interpreter&, const Value&, Args& args) {
  throw Failure(str(*args.bind("raise_exception", {"message"}, 1)[0]));
}

Value strftime_now(Interpreter&, const Value&, Args& args) {
  const std::string& format = to_text(*args.bind("strftime_now", {"format"}, 1)[0], "format");
  if (format.size() > 4096) throw Failure("strftime_now: the format is too long");
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm local{};
  localtime_r(&seconds, &local);
  // %f, the microseconds, is Python's own; %z and %Z of a time without zone are empty there.
  const auto micros =
      std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count() %
      1'000'000;
  std::string expanded;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      expanded += format[i];
      continue;
    }
    const char c = format[++i];
    if (c == 'f') {
      const std::string digits = std::to_string(micros);
      expanded += std::string(6 - digits.size(), '0') + digits;
    } else if (c != 'z' && c != 'Z') {
      expanded += '%';
      expanded += c;
    }
  }
  if (expanded.empty()) return Value::string("");
  std::string out(expanded.size() * 32 + 256, '\0');
  out.resize(std::strftime(out.data(), out.size(), expanded.c_str(), &local));
  return Value::string(std::move(out));
}

class Cycler : public Object {
 public:
  explicit Cycler(Values items) : items_(std::move(items)) {}
  const char* type_name() const override { return "Cycler"; }
  bool attribute(std::string_view name, Value& out) override {
    if (name == "current")
      out = items_[position_];
    else if (name == "pos")
      out = Value::integer(static_cast<int64_t>(position_));
    else if (name == "items")
      out = Value::tuple(items_);
    else if (name == "next")
      out = Value::function(
          "next",
          [](Interpreter&, const Value& self, Args&) {
            auto& cycler = *static_cast<Cycler*>(self.object());
            const Value item = cycler.items_[cycler.position_];
            cycler.position_ = (cycler.position_ + 1) % cycler.items_.size();
            return item;
          },
          Value::object(this));
    else if (name == "reset")
      out = Value::function(
          "reset",
          [](Interpreter&, const Value& self, Args&) {
            static_cast<Cycler*>(self.object())->position_ = 0;
            return Value::none();
          },
          Value::object(this));
    else
      return false;
    return true;
  }

 private:
  Values items_;
  size_t position_ = 0;
};

class Joiner : public Object {
 public:
  explicit Joiner(Value separator) : separator_(std::move(separator)) {}
  const char* type_name() const override { return "Joiner"; }
  bool callable() const override { return true; }
  bool attribute(std::string_view name, Value& out) override {
    if (name == "sep")
      out = separator_;
    else if (name == "used")
      out = Value::boolean(used_);
    else
      return false;
    return true;
  }
  Value call(Interpreter&, Args& args) override {
    args.bind("joiner", {}, 0);
    return std::exchange(used_, true) ? separator_ : Value::string("");
  }

 private:
  Value separator_;
  bool used_ = false;
};

Value make_cycler(Interpreter& interpreter, const Value&, Args& args) {
  if (args.positional.empty() || !args.keywords.empty())
    throw Failure("at least one item has to be provided");
  interpreter.charge_memory(args.positional.size() * sizeof(Value));
  return Value::object(interpreter.make_object<Cycler>(args.positional));
}

Value make_joiner(Interpreter& interpreter, const Value&, Args& args) {
  const auto bound = args.bind("joiner", {"sep"}, 0);
  return Value::object(interpreter.make_object<Joiner>(bound[0] ? *bound[0] : Value::string(", ")));
}

Value lipsum(Interpreter&, const Value&, Args&) { throw Failure("lipsum is not supported"); }

}  // namespace

NativeFunction find_global(std::string_view name) {
  static const std::unordered_map<std::string_view, NativeFunction> functions = {
      {"range", range},
      {"dict", make_dict},
      {"namespace", make_namespace},
      {"raise_exception", raise_exception},
      {"strftime_now", strftime_now},
      {"cycler", make_cycler},
      {"joiner", make_joiner},
      {"lipsum", lipsum},
  };
  const auto it = functions.find(name);
  return it == functions.end() ? nullptr : it->second;
}

}  // namespace nanovllm::jinja
