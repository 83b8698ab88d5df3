// SentencePieceModel: BPE as SentencePiece runs it (https://arxiv.org/abs/1808.06226). There is no
// merge list: two neighbours merge if their concatenation is a piece of the vocabulary, the highest
// score first, then the leftmost. What is in no piece is written as bytes. Immutable after
// construction; a piece of n characters costs O(n log n).
#pragma once

#include "tokenizer/bpe.h"

namespace nanovllm {

enum class PieceType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

class SentencePieceModel : public TokenModel {
 public:
  // scores and types: one an id. The vocabulary must outlive the model.
  SentencePieceModel(const Vocabulary& vocabulary, std::vector<float> scores,
                     std::vector<PieceType> types, std::optional<int32_t> unk);
  void tokenize(std::string_view piece, std::vector<int32_t>& ids) const override;

 private:
  std::optional<int32_t> mergeable(std::string_view text) const;

  const Vocabulary& vocabulary_;
  std::vector<float> scores_;
  std::vector<PieceType> types_;
  std::optional<int32_t> unk_;
  std::array<int32_t, 256> byte_ids_{};
};

}  // namespace nanovllm
