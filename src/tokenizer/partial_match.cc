#include "tokenizer/partial_match.h"

#include <algorithm>

namespace nanovllm {

size_t longest_start_at_end(const std::string& text, const std::vector<std::string>& words) {
  size_t longest = 0;
  for (const std::string& word : words)
    for (size_t n = std::min(word.size() - 1, text.size()); n > longest; --n)
      if (text.compare(text.size() - n, n, word, 0, n) == 0) longest = n;
  return longest;
}

}  // namespace nanovllm
