// For stop strings: how much of a text's end may be the beginning of one.
#pragma once

#include <string>
#include <vector>

namespace nanovllm {

// Length of the longest end of text that one of the words starts with, short of the whole word.
size_t longest_start_at_end(const std::string& text, const std::vector<std::string>& words);

}  // namespace nanovllm
