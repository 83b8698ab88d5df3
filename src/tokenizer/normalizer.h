// Normalizer: the text-to-text stage of a tokenizer.json, as data. Immutable after loading.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace nanovllm {

// A text on its way through the pipeline. at_start: its first character stands at the start of the
// whole input, which is what Metaspace's "first" asks for.
struct NormalizedText {
  std::string text;
  bool at_start = true;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  virtual void apply(NormalizedText& text) const = 0;  // valid UTF-8 in and out

  // json: the "normalizer" object; null gives null. Throws Error(where, ...) for what is not
  // supported, by name.
  static std::unique_ptr<Normalizer> from_json(const nlohmann::json& json,
                                               const std::string& where);
};

}  // namespace nanovllm
