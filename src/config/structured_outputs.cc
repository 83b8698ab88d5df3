#include "nanovllm/structured_outputs.h"

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

// A schema of this size takes longer to compile than anybody waits; real ones have some kilobytes.
constexpr size_t kMaxBytes = size_t{1} << 20;
constexpr size_t kMaxChoices = 10'000;

void check(const char* form, const std::string& text) {
  const char* what = text.empty()                           ? "is empty"
                     : text.size() > kMaxBytes              ? "is longer than 1 MiB"
                     : text.find('\0') != std::string::npos ? "holds a zero byte"
                                                            : nullptr;
  if (what) throw InvalidArgument("structured_outputs", std::string(form) + ": " + what);
}

}  // namespace

void StructuredOutputs::validate() const {
  const int forms = json.has_value() + json_object + regex.has_value() + !choice.empty() +
                    grammar.has_value() + structural_tag.has_value();
  if (forms > 1)
    throw InvalidArgument("structured_outputs",
                          "asks for more than one of json, json_object, regex, choice, grammar and "
                          "structural_tag");
  if (json) check("json", *json);
  if (regex) check("regex", *regex);
  if (grammar) check("grammar", *grammar);
  if (structural_tag) check("structural_tag", *structural_tag);
  if (choice.size() > kMaxChoices)
    throw InvalidArgument("structured_outputs", "choice: holds more than 10000 texts");
  size_t bytes = 0;
  for (const std::string& text : choice) {
    check("choice", text);
    bytes += text.size();
  }
  if (bytes > kMaxBytes)
    throw InvalidArgument("structured_outputs", "choice: holds more than 1 MiB");
}

}  // namespace nanovllm
