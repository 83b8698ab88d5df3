// The load generator's view of a server: any bytes are a response with events or an Error, and the
// same ones however they are cut.
#include "client/http_response.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "client/openai_stream.h"
#include "client/sse_parser.h"

namespace {

using namespace nanovllm;
using namespace nanovllm::client;

struct Result {
  std::string body;
  std::vector<std::string> events;
  bool failed = false, done = false;
  int status = 0;
  bool operator==(const Result&) const = default;
};

Result parse(std::string_view bytes, size_t step) {
  HttpResponseParser response;
  SseParser sse;
  Result result;
  try {
    while (!bytes.empty() && !response.done()) {
      std::string body;
      response.feed(bytes.substr(0, step), &body);
      bytes.remove_prefix(std::min(step, bytes.size()));
      result.body += body;
      sse.feed(body, [&](std::string_view data) { result.events.emplace_back(data); });
    }
    response.close();
  } catch (const Error&) {
    result.failed = true;
    result.body.clear();  // how far a cut response got depends on the cuts
    result.events.clear();
  }
  result.done = response.done();
  result.status = result.failed ? 0 : response.status();
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const Result whole = parse(bytes, bytes.size() + 1);
  if (!(parse(bytes, data[0] % 16 + 1) == whole)) std::abort();
  for (const std::string& event : whole.events) {
    try {
      read_stream_chunk(event);
    } catch (const Error&) {
    }
  }
  read_usage(whole.body);
  read_error(whole.body);
  return 0;
}
