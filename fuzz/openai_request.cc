// The parser of request bodies: any bytes are either a request or an InvalidArgument. The first
// byte picks the endpoint.
#include "server/openai_request.h"

#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanovllm;
  using namespace nanovllm::openai;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    const Endpoint endpoint = data[0] & 1 ? Endpoint::kChatCompletions : Endpoint::kCompletions;
    const ApiRequest request = parse_request(endpoint, parse_body(body), {}, 1000);
    // What was accepted can be written again, and lies in range.
    if (request.params.n < 1 || request.params.max_tokens < -1) std::abort();
    if (request.endpoint == Endpoint::kCompletions && request.prompts.empty()) std::abort();
    dump(request.messages);
    dump(request.template_options);
  } catch (const InvalidArgument&) {
  }
  return 0;
}
