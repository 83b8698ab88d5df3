// Regex: a tokenizer.json pattern, compiled by PCRE2 with its JIT. The patterns are written for
// Oniguruma (Ruby syntax), so they are translated first; what has no equal in PCRE2 is refused.
// Immutable: any number of threads may match at once.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nanovllm {

// A stretch of a text; `match` tells a pattern's matches from what lies between them.
struct TextSpan {
  size_t begin = 0, end = 0;
  bool match = false;
};

class Regex {
 public:
  // where: what names the pattern in an Error.
  Regex(std::string_view pattern, const std::string& where);
  ~Regex();

  // Appends the matches and the gaps between them, in order, covering the text, which must be valid
  // UTF-8. Throws Error if the pattern needs more steps or memory on this text than is sane.
  void split(std::string_view text, std::vector<TextSpan>& spans) const;

  static std::string escape(std::string_view literal);

 private:
  struct Code;
  std::unique_ptr<const Code> code_;
  std::unique_ptr<const Code>
      newer_code_;  // for texts with newer characters; null if it is the same
  std::string where_;
};

// Oniguruma's Ruby syntax -> PCRE2 (UTF, UCP, MULTILINE). newer: properties include the characters
// that PCRE2 does not know yet (unicode_extras.h), which makes them slower. Throws Error(where,
// ...).
std::string translate_pattern(std::string_view pattern, const std::string& where, bool newer);

}  // namespace nanovllm
