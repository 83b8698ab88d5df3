// ChatTemplate: a Jinja interpreter for chat templates, rendering byte for byte as Hugging Face's jinja2 environment
// (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loopcontrols, tojson with ensure_ascii=False, raise_exception,
// strftime_now). Untrusted text: nesting depth, loop iterations and output size are limited. Immutable after parsing.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json_fwd.hpp>

namespace nanovllm {

class ChatTemplate {
 public:
  explicit ChatTemplate(std::string_view source, const std::string& name = "chat template");  // throws Error with the line
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;

  // context: an object; its keys are the template's variables, in order. Throws Error for raise_exception and for what
  // jinja2 would raise.
  std::string render(const nlohmann::ordered_json& context) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace nanovllm
