// HttpResponseParser: one HTTP/1.1 response out of the bytes of a connection, in pieces of any
// size.
//
// It shares nothing with the server's side, so that the two check each other. The bytes are
// untrusted: whatever comes is a response or an Error, in bounded memory (the body goes to the
// caller as it comes). One response an object; not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nanovllm/error.h"

namespace nanovllm::client {

class HttpResponseParser {
 public:
  // Takes bytes up to the end of the response, appends what is body to *body, and returns how many
  // it took: fewer than all only if the response is done. Throws Error("response", reason).
  size_t feed(std::string_view bytes, std::string* body);
  // The server closed the connection. Ends a body that has no other end; throws Error if more was
  // to come.
  void close();

  bool started() const { return started_; }  // a byte has come
  bool done() const { return state_ == State::kDone; }
  int status() const { return status_; }               // 0 before the status line
  bool keep_alive() const { return keep_alive_; }      // meaningful when done()
  bool event_stream() const { return event_stream_; }  // Content-Type: text/event-stream

 private:
  enum class State {
    kStatusLine,
    kHeader,
    kLengthBody,
    kEndlessBody,
    kChunkSize,
    kChunkData,
    kChunkEnd,
    kTrailer,
    kDone
  };
  void on_line(std::string_view line);
  void on_status_line(std::string_view line);
  void on_header(std::string_view line);
  void on_headers_end();
  void on_chunk_size(std::string_view line);

  State state_ = State::kStatusLine;
  std::string line_;        // the part of a line that has come
  size_t head_bytes_ = 0;   // of all lines but chunk sizes
  uint64_t remaining_ = 0;  // bytes of the body or of the chunk
  int status_ = 0;
  bool started_ = false, keep_alive_ = true, event_stream_ = false;
  bool has_length_ = false, chunked_ = false;
};

}  // namespace nanovllm::client
