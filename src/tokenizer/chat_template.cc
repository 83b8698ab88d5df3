#include "tokenizer/chat_template.h"

#include <nlohmann/json.hpp>

#include "nanovllm/error.h"
#include "tokenizer/jinja_ast.h"
#include "tokenizer/jinja_interpreter.h"
#include "tokenizer/jinja_lexer.h"
#include "tokenizer/jinja_unicode.h"

namespace nanovllm {

namespace {

constexpr size_t kMaxSourceBytes = 4u << 20;  // real templates have 1 to 40 KiB

std::string at_line(const std::string& name, int line) {
  return name + ", line " + std::to_string(line);
}

}  // namespace

struct ChatTemplate::Impl {
  std::string name;
  std::unique_ptr<const jinja::Program> program;
};

ChatTemplate::ChatTemplate(std::string_view source, const std::string& name) {
  if (source.size() > kMaxSourceBytes) throw Error(name, "the template is larger than 4 MiB");
  if (!jinja::is_valid_utf8(source)) throw Error(name, "the template is not valid UTF-8");
  auto impl = std::make_unique<Impl>();
  impl->name = name;
  try {
    impl->program = jinja::parse(source);
  } catch (const jinja::SyntaxError& error) {
    throw Error(at_line(name, error.line), error.what());
  } catch (const jinja::Failure& error) {
    throw Error(name, error.what());
  }
  impl_ = std::move(impl);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const nlohmann::ordered_json& context,
                                 const RenderLimits& limits) const {
  jinja::Interpreter interpreter(*impl_->program, limits);
  try {
    return interpreter.run(context);
  } catch (const jinja::Failure& error) {
    throw Error(at_line(impl_->name, interpreter.line()), error.what());
  }
}

}  // namespace nanovllm
