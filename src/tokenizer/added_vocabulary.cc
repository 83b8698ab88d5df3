#include "tokenizer/added_vocabulary.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

// Start of the last character of a text that is not empty.
size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

char32_t character_at(std::string_view text, size_t at) { return take_code_point(text, at); }

}  // namespace

void AddedTokenMatcher::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  int32_t node = 0;
  for (const char b : pattern) {
    const uint64_t edge = (static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(b);
    const auto [it, fresh] = edges_.emplace(edge, static_cast<int32_t>(token_at_.size()));
    if (fresh) token_at_.push_back(-1);
    node = it->second;
  }
  auto& slot = token_at_[static_cast<size_t>(node)];
  if (slot >= 0) return;
  slot = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  opens_[static_cast<uint8_t>(pattern[0])] = true;
}

AddedTokenMatcher::Match AddedTokenMatcher::longest_at(std::string_view text, size_t begin) const {
  Match best;
  int32_t node = 0;
  for (size_t at = begin; at < text.size(); ++at) {
    const auto it =
        edges_.find((static_cast<uint64_t>(node) << 8) | static_cast<uint8_t>(text[at]));
    if (it == edges_.end()) break;
    node = it->second;
    if (token_at_[static_cast<size_t>(node)] >= 0)
      best = {at + 1, token_at_[static_cast<size_t>(node)]};
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<TextSegment>& segments) const {
  size_t covered = 0;
  for (size_t at = 0; at < text.size() && !tokens_.empty();) {
    if (!opens_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = longest_at(text, at);
    if (match.token < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.token)];
    size_t begin = at, end = match.end;
    at = match.end;  // the search goes on behind the match, counted or not
    if (token.single_word) {
      const bool word_before =
          begin > 0 && is_word(character_at(text, last_character(text.substr(0, begin))));
      const bool word_after = end < text.size() && is_word(character_at(text, end));
      if (word_before || word_after) continue;
    }
    if (token.lstrip) {
      while (begin > covered) {
        const size_t previous = last_character(text.substr(0, begin));
        if (!is_whitespace(character_at(text, previous))) break;
        begin = previous;
      }
      begin = std::max(begin, covered);
    }
    if (token.rstrip) {
      while (end < text.size()) {
        size_t next = end;
        if (!is_whitespace(take_code_point(text, next))) break;
        end = next;
      }
    }
    if (covered < begin) segments.push_back({covered, begin, -1});
    segments.push_back({begin, end, token.id});
    covered = end;
  }
  if (covered < text.size()) segments.push_back({covered, text.size(), -1});
}

}  // namespace nanovllm
