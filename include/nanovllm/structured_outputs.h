// StructuredOutputs: what a completion must look like. Names are vLLM's.
//
// Exactly one of the forms may be set. Tokens that would leave the form are never drawn, and the
// completion ends where it is complete: that beats min_tokens and ignore_eos. Everything else about
// sampling stays as it is.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nanovllm {

class CompiledGrammar;  // of src/structured/

struct StructuredOutputs {
  std::optional<std::string> json;            // a JSON schema, as text
  bool json_object = false;                   // any JSON object
  std::optional<std::string> regex;           // matches the whole text
  std::vector<std::string> choice;            // one of these texts
  std::optional<std::string> grammar;         // EBNF as xgrammar's (GBNF), start rule "root"
  std::optional<std::string> structural_tag;  // xgrammar's structural tag format, as JSON text

  bool disable_any_whitespace = false;  // JSON forms: compact, no spaces or newlines between tokens

  // Set by LLM::compile(); belongs to the model that compiled it. Null: add_request() compiles.
  std::shared_ptr<const CompiledGrammar> compiled;

  bool enabled() const {
    return json || json_object || regex || !choice.empty() || grammar || structural_tag;
  }
  // Throws InvalidArgument("structured_outputs", ...) if more than one form is set or one is too
  // large. What is in a form is checked when it is compiled.
  void validate() const;
};

}  // namespace nanovllm
