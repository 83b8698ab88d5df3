// ChatTemplate: a Jinja interpreter for chat templates, rendering byte for byte as Hugging Face's
// jinja2 environment (ImmutableSandboxedEnvironment, trim_blocks, lstrip_blocks, loopcontrols,
// tojson with ensure_ascii=False, raise_exception, strftime_now). Untrusted text: nesting depth,
// loop iterations and output size are limited. Immutable after parsing.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace nanovllm {

// What one render may use before it fails with an Error.
struct RenderLimits {
  uint64_t steps =
      50'000'000;  // evaluated nodes, plus one for each KiB a filter or operator works through
  uint64_t allocated_bytes = uint64_t{2}
                             << 30;  // made by all operations together, whether still alive or not
  uint64_t output_bytes = 64u << 20;
};

class ChatTemplate {
 public:
  explicit ChatTemplate(std::string_view source,
                        const std::string& name = "chat template");  // throws Error with the line
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;

  // context: an object; its keys are the template's variables, in order. Throws Error for
  // raise_exception and for what jinja2 would raise.
  std::string render(const nlohmann::ordered_json& context, const RenderLimits& limits = {}) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

}  // namespace nanovllm
