// ApiDescription: openapi.json, which the server gives to clients and holds requests against.
//
// The description is the one list of the fields there are. What a request carries beyond it is
// refused by name, so that a misspelt or unsupported field is never ignored; types and ranges are
// the parsers' (openai_request.h). Immutable: any thread.
#pragma once

#include <string>
#include <string_view>

#include "server/openai_json.h"

namespace nanovllm {

class ApiDescription {
 public:
  ApiDescription();

  // The document as clients get it.
  std::string_view text() const;

  // schema: a name under components/schemas. Throws InvalidArgument whose where() is the first
  // member of `body` that the schema does not have, as "stream_options.x" if it lies deeper.
  void check_members(const char* schema, const openai::Json& body) const;

  const openai::Json& document() const { return document_; }

 private:
  openai::Json document_;
};

}  // namespace nanovllm
