#include "tokenizer/sentencepiece.h"

#include <algorithm>
#include <cstdio>

#include "nanovllm/error.h"
#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

struct Symbol {
  size_t begin, length;  // length 0: merged away
  int32_t prev, next;    // -1: none
};

struct Candidate {
  float score;
  int32_t position;
  size_t length;  // of the two together; another length means that one side has changed since
  bool operator<(const Candidate& other) const {  // the best in front of std::*_heap
    return score != other.score ? score < other.score : position > other.position;
  }
};

}  // namespace

SentencePieceModel::SentencePieceModel(const Vocabulary& vocabulary, std::vector<float> scores,
                                       std::vector<PieceType> types, std::optional<int32_t> unk)
    : vocabulary_(vocabulary), scores_(std::move(scores)), types_(std::move(types)), unk_(unk) {
  for (int b = 0; b < 256; ++b) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(b));
    byte_ids_[static_cast<size_t>(b)] = vocabulary.find(name).value_or(-1);
  }
}

std::optional<int32_t> SentencePieceModel::mergeable(std::string_view text) const {
  if (text.size() > vocabulary_.longest_token()) return std::nullopt;
  const auto id = vocabulary_.find(text);
  if (!id) return std::nullopt;
  const PieceType type = types_[static_cast<size_t>(*id)];
  const bool piece =
      type == PieceType::kNormal || type == PieceType::kUserDefined || type == PieceType::kUnused;
  return piece ? id : std::nullopt;
}

void SentencePieceModel::tokenize(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.size() > size_t{0x7FFFFFFF})
    throw Error("tokenizer", "the text has a piece of more than 2^31 bytes");
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (size_t pos = 0; pos < piece.size();) {
    const auto length = static_cast<size_t>(utf8_length(piece[pos]));
    const auto at = static_cast<int32_t>(symbols.size());
    symbols.push_back({pos, length, at - 1, at + 1});
    pos += length;
  }
  if (symbols.empty()) return;
  symbols.back().next = -1;

  std::vector<Candidate> heap;
  const auto candidate = [&](int32_t left, int32_t right) -> std::optional<Candidate> {
    if (left < 0 || right < 0) return std::nullopt;
    const Symbol &a = symbols[static_cast<size_t>(left)], &b = symbols[static_cast<size_t>(right)];
    const auto id = mergeable(piece.substr(a.begin, a.length + b.length));
    if (!id) return std::nullopt;
    return Candidate{scores_[static_cast<size_t>(*id)], left, a.length + b.length};
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    if (const auto c = candidate(static_cast<int32_t>(i), static_cast<int32_t>(i) + 1))
      heap.push_back(*c);
  }
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(top.position)];
    if (left.length == 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<size_t>(left.next)];
    if (left.length + right.length != top.length) continue;
    left.length = top.length;
    right.length = 0;
    left.next = right.next;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].prev = top.position;
    for (const auto& c : {candidate(left.prev, top.position), candidate(top.position, left.next)}) {
      if (!c) continue;
      heap.push_back(*c);
      std::push_heap(heap.begin(), heap.end());
    }
  }

  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    const Symbol& symbol = symbols[static_cast<size_t>(i)];
    const std::string_view text = piece.substr(symbol.begin, symbol.length);
    if (const auto id = mergeable(text)) {
      ids.push_back(*id);
      continue;
    }
    const bool bytes = std::all_of(text.begin(), text.end(),
                                   [&](char b) { return byte_ids_[static_cast<uint8_t>(b)] >= 0; });
    if (bytes) {
      for (const char b : text) ids.push_back(byte_ids_[static_cast<uint8_t>(b)]);
    } else if (unk_) {
      ids.push_back(*unk_);
    }
  }
}

}  // namespace nanovllm
