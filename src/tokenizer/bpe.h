// The models: what turns one pre-tokenized piece into token ids. Immutable after construction.
//
// BpeModel merges by rank, as tokenizer.json and GPT-2 do (Sennrich et al.,
// https://arxiv.org/abs/1508.07909). Short pieces take a plain scan for the best pair; long ones a
// linked list and a heap, so that a piece of n symbols costs O(n log n).
#pragma once

#include <array>
#include <memory>
#include <span>
#include <unordered_map>

#include "tokenizer/vocabulary.h"

namespace nanovllm {

class TokenModel {
 public:
  virtual ~TokenModel() = default;
  virtual void tokenize(std::string_view piece, std::vector<int32_t>& ids) const = 0;
};

struct BpeOptions {
  std::optional<std::string> unk_token, continuing_subword_prefix, end_of_word_suffix;
  bool fuse_unk = false, byte_fallback = false, ignore_merges = false;
  bool byte_level = false;  // pieces are raw bytes, tokens are written in GPT-2's alphabet
};

class BpeModel : public TokenModel {
 public:
  using Merge = std::pair<std::string, std::string>;
  // The vocabulary must outlive the model. merges by rising rank. Throws Error(where, ...) for a
  // merge out of vocabulary.
  BpeModel(const Vocabulary& vocabulary, std::span<const Merge> merges, BpeOptions options,
           const std::string& where);
  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override;

 private:
  struct Pair {  // one merge, in an open-addressing table
    uint64_t key = kEmpty;
    uint32_t rank = 0;
    int32_t id = 0;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static uint64_t key(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) |
           static_cast<uint32_t>(right);
  }
  const Pair* find(int32_t left, int32_t right) const;
  void insert(uint64_t key, uint32_t rank, int32_t id);

  void symbols_of(std::string_view piece, std::vector<int32_t>& ids) const;
  std::optional<int32_t> character(std::string_view c) const;
  size_t merge_short(int32_t* ids, size_t n) const;  // in place; the new length
  void merge_long(std::vector<int32_t>& ids, size_t first) const;

  const Vocabulary& vocabulary_;
  BpeOptions options_;
  std::optional<int32_t> unk_;
  std::vector<Pair> pairs_;
  int shift_ = 0;
  std::array<int32_t, 256> byte_ids_{};      // byte_level: the byte's token; else ASCII's. -1: none
  std::array<int32_t, 256> fallback_ids_{};  // of <0x00> to <0xFF>
  std::unordered_map<std::string, int32_t>
      whole_words_;  // byte_level and ignore_merges: tokens as bytes
};

}  // namespace nanovllm
