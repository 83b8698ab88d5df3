#include "tokenizer/vocabulary.h"

#include <algorithm>

namespace nanovllm {

void Vocabulary::add(std::string token, int32_t id) {
  if (static_cast<size_t>(id) >= tokens_.size()) tokens_.resize(static_cast<size_t>(id) + 1);
  longest_ = std::max(longest_, token.size());
  tokens_[static_cast<size_t>(id)] = token;
  ids_.insert_or_assign(std::move(token), id);
}

std::optional<int32_t> Vocabulary::find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

const std::string* Vocabulary::token(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens_.size()) return nullptr;
  const auto& token = tokens_[static_cast<size_t>(id)];
  return token ? &*token : nullptr;
}

}  // namespace nanovllm
