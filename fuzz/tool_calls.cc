// Tool calls in a model's text: the first byte picks the format, the second where the text is cut.
// However it is cut, the content and the calls are the same.
#include "server/tool_calls.h"

#include <cstdlib>

using namespace nanovllm::openai;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  static const ToolRequest request = [] {
    ToolRequest r;
    for (const char* name : {"f", "get"})
      r.tools.push_back({{"type", "function"}, {"function", {{"name", name}}}});
    return r;
  }();
  const ToolFormat format = data[0] % 2 ? ToolFormat::kHermes : ToolFormat::kLlama;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  auto read = [&](size_t step) {
    ToolCallParser parser(format, request);
    std::string content, calls;
    auto take = [&](const ToolDelta& delta) {
      content += delta.content;
      for (const auto& call : delta.calls)
        calls += (call.name.empty() ? "" : "\n" + call.name + " ") + call.arguments;
    };
    for (size_t at = 0; at < text.size(); at += step) take(parser.add(text.substr(at, step)));
    take(parser.finish());
    return content + "\1" + calls;
  };
  if (read(text.size() + 1) != read(1 + data[1] % 16)) std::abort();
  return 0;
}
