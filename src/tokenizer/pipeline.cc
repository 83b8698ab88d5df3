#include "tokenizer/pipeline.h"

#include <algorithm>
#include <bit>

#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

// Remembers where in the output a word's ids already stand. Text repeats its words, and finding one
// here costs a tenth of merging it again. Direct-mapped, lives for one encode(), so it needs no
// lock and no bound.
class WordCache {
 public:
  explicit WordCache(size_t text_size)
      : slots_(std::clamp<size_t>(std::bit_ceil(text_size / 16 + 1), 64, size_t{1} << 16)) {}

  void tokenize(const TokenModel& model, std::string_view word, std::vector<int32_t>& ids) {
    if (word.size() > kLongest) return model.tokenize(word, ids);
    Slot& slot = slots_[hash(word) & (slots_.size() - 1)];
    if (slot.word == word) {
      const size_t end = ids.size();
      ids.resize(end + slot.count);
      std::copy_n(ids.begin() + static_cast<ptrdiff_t>(slot.first), slot.count,
                  ids.begin() + static_cast<ptrdiff_t>(end));
      return;
    }
    const size_t first = ids.size();
    model.tokenize(word, ids);
    slot = {word, first, ids.size() - first};
  }

 private:
  static constexpr size_t kLongest = 64;  // bytes
  struct Slot {
    std::string_view word;  // into a text that lives as long as the cache
    size_t first = 0, count = 0;
  };
  static size_t hash(std::string_view word) {
    uint64_t h = word.size();
    size_t i = 0;
    for (; i + 8 <= word.size(); i += 8) h = mix(h, load(word.data() + i, 8));
    if (i < word.size()) h = mix(h, load(word.data() + i, word.size() - i));
    return static_cast<size_t>(h ^ (h >> 32));
  }
  static uint64_t load(const char* data, size_t n) {
    uint64_t value = 0;
    std::copy_n(data, n, reinterpret_cast<char*>(&value));
    return value;
  }
  static uint64_t mix(uint64_t h, uint64_t value) {
    h = (h ^ value) * 0x9E3779B97F4A7C15ull;
    return h ^ (h >> 29);
  }

  std::vector<Slot> slots_;
};

class PipelineStream : public TextStream {
 public:
  PipelineStream(const Pipeline& pipeline, bool skip_special_tokens)
      : pipeline_(pipeline),
        stream_(pipeline.decoder()),
        skip_special_tokens_(skip_special_tokens) {}

  std::string add(int32_t id) override {
    std::string text;
    if (const auto* token = pipeline_.decodable(id, skip_special_tokens_))
      stream_.add(*token, text);
    return text;
  }
  std::string finish() override {
    std::string text;
    stream_.finish(text);
    return text;
  }

 private:
  const Pipeline& pipeline_;
  DecoderStream stream_;
  bool skip_special_tokens_;
};

}  // namespace

Pipeline::Pipeline(PipelineParts parts) : parts_(std::move(parts)) {
  for (const auto& token : parts_.added) {
    added_.add(token.content, token.id);
    if (token.special) special_.insert(token.content);
  }
  vocab_size_ = std::max(parts_.vocabulary->end_id(), added_.end_id());
  for (const bool special : {true, false}) {  // of equal patterns the special token is found
    for (const auto& token : parts_.added) {
      if (token.special != special) continue;
      if (!token.normalized) {
        raw_.add(token.content, token);
        continue;
      }
      NormalizedText pattern{token.content};
      if (parts_.normalizer) parts_.normalizer->apply(pattern);
      normalized_.add(pattern.text, token);
      if (pattern.text != token.content) decoded_.emplace(token.id, pattern.text);
    }
  }
}

std::vector<int32_t> Pipeline::encode(std::string_view text, bool add_special_tokens) const {
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = to_valid_utf8(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (add_special_tokens) ids = parts_.prefix;

  WordCache cache(text.size());
  PieceList list;  // its texts live until the end: the cache looks into them
  std::vector<TextSegment> outer, inner;
  raw_.split(text, outer);
  for (const auto& segment : outer) {
    if (segment.id >= 0) {
      ids.push_back(segment.id);
      continue;
    }
    NormalizedText normalized{std::string(text.substr(segment.begin, segment.end - segment.begin)),
                              segment.begin == 0};
    if (parts_.normalizer) parts_.normalizer->apply(normalized);
    const bool at_start = normalized.at_start;
    const std::string_view whole = list.keep(std::move(normalized.text));
    inner.clear();
    normalized_.split(whole, inner);
    for (const auto& part : inner) {
      if (part.id >= 0) {
        ids.push_back(part.id);
        continue;
      }
      list.pieces = {
          {whole.substr(part.begin, part.end - part.begin), at_start && part.begin == 0}};
      if (parts_.pre_tokenizer) parts_.pre_tokenizer->apply(list);
      for (const auto& piece : list.pieces) cache.tokenize(*parts_.model, piece.text, ids);
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), parts_.suffix.begin(), parts_.suffix.end());
  return ids;
}

std::string Pipeline::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  DecoderStream stream(parts_.decoder);
  std::string text;
  for (const int32_t id : ids) {
    if (const auto* token = decodable(id, skip_special_tokens)) stream.add(*token, text);
  }
  stream.finish(text);
  return text;
}

std::unique_ptr<TextStream> Pipeline::stream(bool skip_special_tokens) const {
  return std::make_unique<PipelineStream>(*this, skip_special_tokens);
}

const std::string* Pipeline::find_token(int32_t id) const {
  const std::string* token = added_.token(id);
  return token != nullptr ? token : parts_.vocabulary->token(id);
}

const std::string* Pipeline::decodable(int32_t id, bool skip_special_tokens) const {
  const std::string* token = find_token(id);
  if (token == nullptr || (skip_special_tokens && special_.contains(*token))) return nullptr;
  const auto it = decoded_.find(id);
  return it == decoded_.end() ? token : &it->second;
}

std::string Pipeline::id_to_token(int32_t id) const {
  const std::string* token = find_token(id);
  return token == nullptr ? std::string() : *token;
}

std::string Pipeline::token_bytes(int32_t id) const {
  const std::string* token = decodable(id, /*skip_special_tokens=*/true);
  return token == nullptr ? std::string() : parts_.decoder.bytes_of(*token);
}

std::optional<int32_t> Pipeline::token_to_id(std::string_view token) const {
  const auto id = added_.find(token);
  return id ? id : parts_.vocabulary->find(token);
}

bool Pipeline::is_special(int32_t id) const {
  const std::string* token = find_token(id);
  return token != nullptr && special_.contains(*token);
}

}  // namespace nanovllm
