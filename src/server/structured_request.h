// The fields of a request that ask for a form of the text: OpenAI's response_format, vLLM's
// structured_outputs, and its older guided_json, guided_regex, guided_choice and guided_grammar.
#pragma once

#include <string>

#include "nanovllm/structured_outputs.h"
#include "server/openai_json.h"

namespace nanovllm::openai {

struct StructuredField {
  StructuredOutputs outputs;  // none if no field asks
  std::string name;           // of the field that does
};

// Throws InvalidArgument naming the field: a wrong type, an unknown member, two fields at once.
StructuredField parse_structured(const Fields& fields);

// The object of the field structured_outputs alone; `where` names it in complaints.
StructuredOutputs parse_structured_outputs(const Json& object, const std::string& where);

}  // namespace nanovllm::openai
