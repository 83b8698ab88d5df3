// tokenizer.json from anyone, then text through it. The input is the file, a zero byte, and the
// text.
#include "tokenizer/tokenizer.h"

#include <cstdlib>
#include <string_view>

#include "nanovllm/error.h"
#include "tokenizer/unicode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace nanovllm;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = std::min(input.find('\0'), input.size());
  const std::string_view text =
      zero < input.size() ? input.substr(zero + 1) : "Hello  w\xC3\xB6rld 123\n<s>";
  try {
    const auto tokenizer = Tokenizer::from_json(input.substr(0, zero), "", "fuzz");
    const auto ids = tokenizer->encode(text, true);
    for (const bool skip : {false, true}) {
      const std::string whole = tokenizer->decode(ids, skip);
      if (!is_valid_utf8(whole)) std::abort();
      IncrementalDetokenizer stream(*tokenizer, skip);
      std::string pieces;
      for (const int32_t id : ids) {
        const std::string piece = stream.add(id);
        if (!is_valid_utf8(piece)) std::abort();
        pieces += piece;
      }
      if (pieces + stream.finish() != whole) std::abort();
    }
  } catch (const Error&) {
  }
  return 0;
}
