#include "tokenizer/bpe.h"

#include <algorithm>
#include <cstdio>

#include "formats/text.h"
#include "nanovllm/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

// Up to this many symbols the quadratic scan, which touches a few cache lines, beats the heap.
constexpr size_t kShortPiece = 64;
constexpr uint32_t kNoRank = ~uint32_t{0};

struct Symbol {
  int32_t id;
  int32_t prev, next;  // -1: none
  bool alive;
};

struct Candidate {
  uint32_t rank;
  int32_t position;
  int32_t id;
  // For std::*_heap, which keeps the largest in front: the best is the lowest rank, then the
  // leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

BpeModel::BpeModel(const Vocabulary& vocabulary, std::span<const Merge> merges, BpeOptions options,
                   const std::string& where)
    : vocabulary_(vocabulary), options_(std::move(options)) {
  int bits = 4;
  while ((size_t{1} << bits) < 2 * merges.size()) ++bits;
  pairs_.resize(size_t{1} << bits);
  shift_ = 64 - bits;

  const size_t prefix =
      options_.continuing_subword_prefix ? options_.continuing_subword_prefix->size() : 0;
  uint32_t rank = 0;
  for (const auto& [left, right] : merges) {
    const auto left_id = vocabulary.find(left), right_id = vocabulary.find(right);
    if (!left_id || !right_id) {
      throw Error(where, "merge " + std::to_string(rank) + " names the token " +
                             quote(left_id ? right : left) + ", which is not in the vocabulary");
    }
    if (right.size() < prefix)
      throw Error(where, "merge " + std::to_string(rank) + " is shorter than the prefix");
    const std::string merged = left + right.substr(prefix);
    const auto id = vocabulary.find(merged);
    if (!id) {
      throw Error(where, "merge " + std::to_string(rank) + " makes the token " + quote(merged) +
                             ", which is not in the vocabulary");
    }
    insert(key(*left_id, *right_id), rank++, *id);
  }

  if (options_.unk_token) unk_ = vocabulary.find(*options_.unk_token);
  byte_ids_.fill(-1);
  fallback_ids_.fill(-1);
  for (int b = 0; b < 256; ++b) {
    const auto index = static_cast<size_t>(b);
    std::string text;
    if (options_.byte_level) {
      append_utf8(text, byte_to_char(static_cast<uint8_t>(b)));
    } else if (b < 0x80) {
      text.push_back(static_cast<char>(b));
    }
    if (const auto id = vocabulary.find(text)) byte_ids_[index] = *id;
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(b));
    if (const auto id = vocabulary.find(name)) fallback_ids_[index] = *id;
  }
  if (options_.byte_level && options_.ignore_merges) {
    for (int32_t id = 0; id < vocabulary.end_id(); ++id) {
      const std::string* token = vocabulary.token(id);
      if (token == nullptr || vocabulary.find(*token) != id) continue;
      if (auto bytes = chars_to_bytes(*token)) whole_words_.emplace(std::move(*bytes), id);
    }
  }
}

void BpeModel::insert(uint64_t key, uint32_t rank, int32_t id) {
  const size_t mask = pairs_.size() - 1;
  size_t slot = static_cast<size_t>((key * 0x9E3779B97F4A7C15ull) >> shift_);
  while (pairs_[slot].key != kEmpty && pairs_[slot].key != key) slot = (slot + 1) & mask;
  pairs_[slot] = {key, rank, id};  // a merge given twice keeps its last rank
}

const BpeModel::Pair* BpeModel::find(int32_t left, int32_t right) const {
  const uint64_t wanted = key(left, right);
  const size_t mask = pairs_.size() - 1;
  size_t slot = static_cast<size_t>((wanted * 0x9E3779B97F4A7C15ull) >> shift_);
  while (pairs_[slot].key != wanted) {
    if (pairs_[slot].key == kEmpty) return nullptr;
    slot = (slot + 1) & mask;
  }
  return &pairs_[slot];
}

std::optional<int32_t> BpeModel::character(std::string_view c) const {
  if (c.size() == 1) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c[0])];
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
  }
  return vocabulary_.find(c);
}

// The piece as its single characters (or bytes), unknown ones replaced by the model's policy. The
// order in which pending unknowns are written is Hugging Face's.
void BpeModel::symbols_of(std::string_view piece, std::vector<int32_t>& ids) const {
  const bool affixes = options_.continuing_subword_prefix || options_.end_of_word_suffix;
  bool unknown_pending = false;
  std::string scratch;
  for (size_t pos = 0; pos < piece.size();) {
    const size_t length = options_.byte_level ? 1 : static_cast<size_t>(utf8_length(piece[pos]));
    std::string_view c = piece.substr(pos, length);
    const bool first = pos == 0;
    pos += length;
    std::optional<int32_t> id;
    if (affixes) {
      scratch.clear();
      if (!first && options_.continuing_subword_prefix)
        scratch += *options_.continuing_subword_prefix;
      if (options_.byte_level) {
        append_utf8(scratch, byte_to_char(static_cast<uint8_t>(c[0])));
      } else {
        scratch += c;
      }
      if (pos >= piece.size() && options_.end_of_word_suffix)
        scratch += *options_.end_of_word_suffix;
      c = scratch;
      id = vocabulary_.find(c);
    } else {
      id = character(c);
    }
    if (id) {
      if (unknown_pending) ids.push_back(*unk_);
      unknown_pending = false;
      ids.push_back(*id);
      continue;
    }
    if (options_.byte_fallback) {
      std::string chars;
      if (options_.byte_level && !affixes) {
        chars = bytes_to_chars(c);
        c = chars;
      }
      if (std::all_of(c.begin(), c.end(),
                      [&](char b) { return fallback_ids_[static_cast<uint8_t>(b)] >= 0; })) {
        for (const char b : c) ids.push_back(fallback_ids_[static_cast<uint8_t>(b)]);
        continue;
      }
    }
    if (options_.unk_token) {
      if (!unk_)
        throw Error("tokenizer", "the unknown token " + quote(*options_.unk_token) +
                                     " is not in the vocabulary");
      if (unknown_pending && !options_.fuse_unk) ids.push_back(*unk_);
      unknown_pending = true;
    }
  }
  if (unknown_pending) ids.push_back(*unk_);
}

void BpeModel::tokenize(std::string_view piece, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (options_.byte_level) {
      const auto it = whole_words_.find(std::string(piece));
      if (it != whole_words_.end()) return ids.push_back(it->second);
    } else if (const auto id = vocabulary_.find(piece)) {
      return ids.push_back(*id);
    }
  }
  const size_t first = ids.size();
  symbols_of(piece, ids);
  const size_t n = ids.size() - first;
  if (n < 2) return;
  if (n <= kShortPiece) {
    ids.resize(first + merge_short(ids.data() + first, n));
  } else {
    merge_long(ids, first);
  }
}

size_t BpeModel::merge_short(int32_t* ids, size_t n) const {
  uint32_t ranks[kShortPiece];  // of the pair (i, i + 1)
  int32_t merged[kShortPiece];
  const auto look = [&](size_t i) {
    const Pair* pair = find(ids[i], ids[i + 1]);
    ranks[i] = pair == nullptr ? kNoRank : pair->rank;
    merged[i] = pair == nullptr ? -1 : pair->id;
  };
  for (size_t i = 0; i + 1 < n; ++i) look(i);
  while (n > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < n; ++i) {
      if (ranks[i] < ranks[best]) best = i;
    }
    if (ranks[best] == kNoRank) break;
    ids[best] = merged[best];
    std::copy(ids + best + 2, ids + n, ids + best + 1);
    std::copy(ranks + best + 1, ranks + n - 1, ranks + best);
    std::copy(merged + best + 1, merged + n - 1, merged + best);
    --n;
    if (best > 0) look(best - 1);
    if (best + 1 < n) look(best);
  }
  return n;
}

void BpeModel::merge_long(std::vector<int32_t>& ids, size_t first) const {
  const size_t n = ids.size() - first;
  if (n > size_t{0x7FFFFFFF})
    throw Error("tokenizer", "the text has a piece of more than 2^31 symbols");
  std::vector<Symbol> symbols(n);
  for (size_t i = 0; i < n; ++i) {
    const auto at = static_cast<int32_t>(i);
    symbols[i] = {ids[first + i], at - 1, i + 1 < n ? at + 1 : -1, true};
  }
  std::vector<Candidate> heap;
  const auto candidate = [&](int32_t left, int32_t right) -> std::optional<Candidate> {
    if (left < 0 || right < 0) return std::nullopt;
    const Pair* pair =
        find(symbols[static_cast<size_t>(left)].id, symbols[static_cast<size_t>(right)].id);
    if (pair == nullptr) return std::nullopt;
    return Candidate{pair->rank, left, pair->id};
  };
  const auto push = [&](int32_t left, int32_t right) {
    if (const auto c = candidate(left, right)) {
      heap.push_back(*c);
      std::push_heap(heap.begin(), heap.end());
    }
  };
  for (size_t i = 0; i + 1 < n; ++i) {
    if (const auto c = candidate(static_cast<int32_t>(i), static_cast<int32_t>(i) + 1))
      heap.push_back(*c);
  }
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    Symbol& left = symbols[static_cast<size_t>(top.position)];
    if (!left.alive || left.next < 0) continue;
    const int32_t right_at = left.next;
    Symbol& right = symbols[static_cast<size_t>(right_at)];
    const Pair* pair = find(left.id, right.id);
    if (pair == nullptr || pair->id != top.id) continue;  // one side has been merged away since
    left.id = top.id;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) symbols[static_cast<size_t>(left.next)].prev = top.position;
    push(left.prev, top.position);
    push(top.position, left.next);
  }
  size_t out = first;
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next)
    ids[out++] = symbols[static_cast<size_t>(i)].id;
  ids.resize(out);
}

}  // namespace nanovllm
