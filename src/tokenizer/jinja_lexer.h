// Lexer: template text to tokens, with jinja2's whitespace rules (trim_blocks, lstrip_blocks, the -
// and + markers).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/jinja_value.h"

namespace nanovllm::jinja {

// A template that cannot be parsed.
struct SyntaxError : Failure {
  SyntaxError(int line, const std::string& what) : Failure(what), line(line) {}
  int line;
};

enum class TokenType : uint8_t {
  kData,
  kVariableBegin,
  kVariableEnd,
  kBlockBegin,
  kBlockEnd,
  kName,
  kString,
  kInteger,
  kFloat,
  kOperator,
  kEnd
};

struct Token {
  TokenType type;
  int line;
  std::string text;  // data, the name, the operator
  Value value;       // of a literal
};

// The last token is kEnd. Throws SyntaxError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace nanovllm::jinja
