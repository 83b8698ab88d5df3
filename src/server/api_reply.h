// Answers in OpenAI's JSON, errors among them.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "server/http_server.h"
#include "server/openai_json.h"

namespace nanovllm {

void send_json(http::Responder& responder, int status, const openai::Json& body);

// OpenAI's error object. param: the field to blame, "" for none.
void send_error(http::Responder& responder, int status, const std::string& message,
                const std::string& param = "");
// For what was thrown: 400 for InvalidArgument (413 if it is the body's size), 404 for NotFound,
// 500 for everything else, without its details unless it is an Error.
void send_error(http::Responder& responder, const std::exception& error);

// A model or a path that is not there.
class NotFound : public Error {
 public:
  using Error::Error;
};

}  // namespace nanovllm
