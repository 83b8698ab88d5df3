// What a load generator wants to know of one chunk of a streamed completion: is it a token, and
// what does it say of the usage? Reads the chunks of any OpenAI server.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nanovllm::client {

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

struct StreamChunk {
  bool done = false;   // data: [DONE]
  bool token = false;  // carries at least one token of the answer
  std::optional<Usage> usage;
  std::string error;  // the server's message, if the chunk is an error
};

// data: of one event. Throws Error if it is neither [DONE] nor a JSON object.
StreamChunk read_stream_chunk(std::string_view data);

// The usage of a whole answer, or the message of an error body; whatever `body` is.
std::optional<Usage> read_usage(std::string_view body);
std::string read_error(std::string_view body);

}  // namespace nanovllm::client
