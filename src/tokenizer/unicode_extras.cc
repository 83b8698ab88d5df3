#include "tokenizer/unicode_extras.h"

namespace nanovllm {

const char* newer_characters(std::string_view) { return ""; }

}  // namespace nanovllm
