// PreTokenizer: cuts a normalized text into the pieces that the model sees one by one, as
// tokenizer.json states it. Immutable after loading; a call owns its PieceList.
#pragma once

#include <deque>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"

namespace nanovllm {

struct Piece {
  std::string_view text;
  bool at_start = false;  // it begins where the whole input begins
};

// Pieces, and the texts that stages had to write anew. Views stay valid as long as the list.
struct PieceList {
  std::vector<Piece> pieces;
  std::deque<std::string> texts;

  std::string_view keep(std::string text) { return texts.emplace_back(std::move(text)); }
};

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual void apply(PieceList& list) const = 0;

  // Null for null. byte_level: set if the last stage writes bytes in GPT-2's alphabet; that stage
  // then leaves the bytes as they are, for a model that takes them so. Throws Error(where, ...) for
  // what is not supported, by name.
  static std::unique_ptr<PreTokenizer> from_json(const nlohmann::json& json,
                                                 const std::string& where, bool& byte_level);
};

// Split's five behaviors over alternating matches and gaps; appends the pieces of `piece`, without
// empty ones.
void cut(const Piece& piece, const std::vector<TextSpan>& spans, SplitBehavior behavior,
         std::vector<Piece>& out);

}  // namespace nanovllm
