// A template, a zero byte, and its JSON context (without one: a small context of its own). The
// limits are low, so that what loops or grows without end fails soon.
#include "tokenizer/chat_template.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "nanovllm/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t split = input.find('\0');
  const std::string_view json = split == input.npos
                                    ? R"({"messages": [{"role": "user", "content": "hi"}], "n": 3})"
                                    : input.substr(split + 1);
  const auto context = nlohmann::ordered_json::parse(json, nullptr, false);
  if (context.is_discarded()) return 0;
  try {
    nanovllm::ChatTemplate(input.substr(0, split))
        .render(context,
                {.steps = 200'000, .allocated_bytes = 64u << 20, .output_bytes = 1u << 20});
  } catch (const nanovllm::Error&) {
  }
  return 0;
}
