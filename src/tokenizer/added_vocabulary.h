// AddedVocabulary: tokens found in the text before the model sees it (special ones such as
// <|im_end|>, and others). Those with normalized = false are looked for in the text as given, the
// rest in the normalized text; the leftmost match wins, and of several there the longest. Immutable
// after loading.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nanovllm {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;                 // left out of decoded text on request
  bool single_word = false;             // only where no word character stands on either side
  bool lstrip = false, rstrip = false;  // takes the white space on that side along
  bool normalized = true;
};

// A stretch of text, or a token found in it (id >= 0).
struct TextSegment {
  size_t begin = 0, end = 0;
  int32_t id = -1;
};

class AddedTokenMatcher {
 public:
  // pattern: what to look for (the content, normalized for tokens that say so). Empty and repeated
  // patterns are ignored.
  void add(std::string_view pattern, const AddedToken& token);
  // Covers the text with segments; empty ones are left out.
  void split(std::string_view text, std::vector<TextSegment>& segments) const;
  bool empty() const { return tokens_.empty(); }

 private:
  struct Match {
    size_t end = 0;
    int32_t token = -1;
  };
  Match longest_at(std::string_view text, size_t begin) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, int32_t> edges_;  // (node << 8 | byte) -> node
  std::vector<int32_t> token_at_ = {-1};         // node -> index in tokens_, -1: none
  std::array<bool, 256> opens_{};                // bytes that a pattern starts with
};

}  // namespace nanovllm
