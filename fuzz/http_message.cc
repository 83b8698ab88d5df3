// What the server reads of HTTP by itself: heads, targets, hosts and escapes. Any bytes are either
// refused or come out as promised. The first byte picks what is read.
#include "server/http_message.h"

#include <cstdint>
#include <cstdlib>

namespace {

void require(bool ok) {
  if (!ok) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanovllm::http;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0: {
      const size_t end = head_end(text);
      if (end == std::string_view::npos) break;
      const std::string_view head = text.substr(0, end);
      require(head.ends_with("\r\n\r\n"));
      // In what is accepted, lines end in one way only and no line goes on in the next.
      if (check_head(head)) break;
      for (size_t i = 0; i < head.size(); ++i) {
        if (head[i] == '\n') require(i > 0 && head[i - 1] == '\r');
        if (head[i] == '\r') require(i + 1 < head.size() && head[i + 1] == '\n');
        if (head[i] == '\0') std::abort();
      }
      require(head.find("\r\n ") == std::string_view::npos &&
              head.find("\r\n\t") == std::string_view::npos);
      break;
    }
    case 1: {
      Request request;
      if (!split_target(text, &request)) require(request.path[0] == '/' || request.path == "*");
      break;
    }
    case 2: {
      const auto decoded = percent_decode(text);
      if (decoded) require(decoded->size() <= text.size());
      break;
    }
    case 3: {
      const auto name = host_name(text);
      if (name) require(name->find_first_of("/@, \t") == std::string::npos);
      break;
    }
    case 4: {
      has_token(text, "close");
      // A header's value, wherever it came from, makes no second line.
      const std::string head =
          response_head(200, {{"Name", std::string(text)}}, BodyEnd::kLength, 0, true, 11);
      require(head.find("\r\n\r\n") + 4 == head.size());
      require(!check_head(head));
      break;
    }
  }
  return 0;
}
