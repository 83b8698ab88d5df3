// Vocabulary: token strings and their ids, both ways. Immutable once the tokenizer is loaded.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace nanovllm {

class Vocabulary {
 public:
  static constexpr int64_t kMaxId =
      (int64_t{1} << 24) - 1;  // a larger id is taken for a damaged file

  // A token given twice keeps its last id. id must be in 0 .. kMaxId.
  void add(std::string token, int32_t id);
  std::optional<int32_t> find(std::string_view token) const;
  const std::string* token(int32_t id) const;  // null if no token has the id
  size_t size() const { return ids_.size(); }
  int32_t end_id() const { return static_cast<int32_t>(tokens_.size()); }  // largest id + 1
  size_t longest_token() const { return longest_; }                        // in bytes

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;
  std::vector<std::optional<std::string>> tokens_;
  size_t longest_ = 0;
};

}  // namespace nanovllm
