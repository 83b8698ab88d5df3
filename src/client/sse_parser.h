// SseParser: server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)
// out of a byte stream that may be cut anywhere, inside a character or between \r and \n included.
//
// Only the data of an event is kept; its name, id and retry time are read over, as OpenAI's API
// does not use them. Memory is bounded: an event larger than the limit is an Error. Not
// thread-safe.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "nanovllm/error.h"

namespace nanovllm::client {

class SseParser {
 public:
  static constexpr size_t kMaxEventBytes = size_t{16} << 20;
  using OnData = std::function<void(std::string_view data)>;

  // Calls on_data for each event that is complete, with its data lines joined by '\n'. An event
  // without data does not count, nor does one that the stream's end cuts off.
  void feed(std::string_view bytes, const OnData& on_data);

 private:
  void on_line(std::string_view line, const OnData& on_data);

  std::string line_, data_;
  bool has_data_ = false, after_return_ = false, first_line_ = true;
};

}  // namespace nanovllm::client
