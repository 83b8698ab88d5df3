#include "server/api_reply.h"

#include <new>

#include "server/openai_response.h"

namespace nanovllm {

void send_json(http::Responder& responder, int status, const openai::Json& body) {
  responder.send(status, {{"Content-Type", "application/json"}}, openai::dump(body));
}

void send_error(http::Responder& responder, int status, const std::string& message,
                const std::string& param) {
  send_json(responder, status, openai::error_body(message, param, status));
}

void send_error(http::Responder& responder, const std::exception& error) {
  if (const auto* missing = dynamic_cast<const NotFound*>(&error))
    return send_error(responder, 404, missing->reason(), missing->where());
  if (const auto* invalid = dynamic_cast<const InvalidArgument*>(&error))
    return send_json(responder, 400, openai::error_body(*invalid, 400));
  if (const auto* known = dynamic_cast<const Error*>(&error))
    return send_json(responder, 500, openai::error_body(*known, 500));
  if (dynamic_cast<const std::bad_alloc*>(&error))
    return send_error(responder, 503, "out of memory for this request");
  send_error(responder, 500, "an internal error ended this request");
}

}  // namespace nanovllm
