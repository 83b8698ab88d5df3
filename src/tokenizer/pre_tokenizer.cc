#include "tokenizer/pre_tokenizer.h"

#include <algorithm>

#include "formats/text.h"
#include "nanovllm/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

constexpr char kGpt2Pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

// Every character of a class is a match of its own.
void split_characters(std::string_view text, bool (*wanted)(char32_t),
                      std::vector<TextSpan>& spans) {
  size_t covered = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (!wanted(take_code_point(text, pos))) continue;
    if (covered < begin) spans.push_back({covered, begin, false});
    spans.push_back({begin, pos, true});
    covered = pos;
  }
  if (covered < text.size()) spans.push_back({covered, text.size(), false});
}

class ByteLevel : public PreTokenizer {
 public:
  ByteLevel(bool add_prefix_space, bool use_regex, bool rewrite, const std::string& where)
      : add_prefix_space_(add_prefix_space), rewrite_(rewrite) {
    if (use_regex) regex_ = std::make_unique<Regex>(kGpt2Pattern, where);
  }
  void apply(PieceList& list) const override {
    std::vector<Piece> out;
    std::vector<TextSpan> spans;
    for (Piece piece : list.pieces) {
      if (add_prefix_space_ && piece.text[0] != ' ')
        piece.text = list.keep(" " + std::string(piece.text));
      const size_t first = out.size();
      if (regex_) {
        spans.clear();
        regex_->split(piece.text, spans);
        cut(piece, spans, SplitBehavior::kIsolated, out);
      } else {
        out.push_back(piece);
      }
      if (!rewrite_) continue;
      for (size_t i = first; i < out.size(); ++i)
        out[i].text = list.keep(bytes_to_chars(out[i].text));
    }
    list.pieces = std::move(out);
  }

 private:
  bool add_prefix_space_, rewrite_;
  std::unique_ptr<Regex> regex_;
};

class Split : public PreTokenizer {
 public:
  Split(const PatternField& pattern, SplitBehavior behavior, bool invert, const std::string& where)
      : regex_(pattern.regex ? pattern.text : Regex::escape(pattern.text), where),
        behavior_(behavior),
        invert_(invert) {}
  void apply(PieceList& list) const override {
    std::vector<Piece> out;
    std::vector<TextSpan> spans;
    for (const Piece& piece : list.pieces) {
      spans.clear();
      regex_.split(piece.text, spans);
      if (invert_) {
        for (auto& span : spans) span.match = !span.match;
      }
      cut(piece, spans, behavior_, out);
    }
    list.pieces = std::move(out);
  }

 private:
  Regex regex_;
  SplitBehavior behavior_;
  bool invert_;
};

class SplitCharacters : public PreTokenizer {
 public:
  SplitCharacters(bool (*wanted)(char32_t), SplitBehavior behavior)
      : wanted_(wanted), behavior_(behavior) {}
  void apply(PieceList& list) const override {
    std::vector<Piece> out;
    std::vector<TextSpan> spans;
    for (const Piece& piece : list.pieces) {
      spans.clear();
      split_characters(piece.text, wanted_, spans);
      cut(piece, spans, behavior_, out);
    }
    list.pieces = std::move(out);
  }

 private:
  bool (*wanted_)(char32_t);
  SplitBehavior behavior_;
};

// \w+|[^\w\s]+ : runs of word characters and runs of the rest, white space dropped.
class Whitespace : public PreTokenizer {
 public:
  void apply(PieceList& list) const override {
    std::vector<Piece> out;
    for (const Piece& piece : list.pieces) {
      size_t begin = 0;
      int kind = -1;  // 0 white space, 1 word, 2 other
      for (size_t pos = 0; pos <= piece.text.size();) {
        const size_t at = pos;
        int next = -1;
        if (pos < piece.text.size()) {
          const char32_t c = take_code_point(piece.text, pos);
          next = is_word(c) ? 1 : is_whitespace(c) ? 0 : 2;
        } else {
          ++pos;
        }
        if (next == kind) continue;
        if (kind > 0)
          out.push_back({piece.text.substr(begin, at - begin), piece.at_start && begin == 0});
        begin = at;
        kind = next;
      }
    }
    list.pieces = std::move(out);
  }
};

class Metaspace : public PreTokenizer {
 public:
  enum class Prepend { kAlways, kFirst, kNever };
  Metaspace(std::string replacement, Prepend prepend, bool split)
      : replacement_(std::move(replacement)), prepend_(prepend), split_(split) {}
  void apply(PieceList& list) const override {
    std::vector<Piece> out;
    for (Piece& piece : list.pieces) {
      std::string text;
      text.reserve(piece.text.size() + piece.text.size() / 4);
      for (const char c : piece.text) {
        if (c == ' ') {
          text += replacement_;
        } else {
          text += c;
        }
      }
      const bool prepend =
          prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && piece.at_start);
      if (prepend && text.compare(0, replacement_.size(), replacement_) != 0)
        text.insert(0, replacement_);
      piece.text = list.keep(std::move(text));
      if (!split_) {
        out.push_back(piece);
        continue;
      }
      // A piece opens at each replacement character.
      for (size_t begin = 0; begin < piece.text.size();) {
        const size_t end = std::min(piece.text.size(), piece.text.find(replacement_, begin + 1));
        out.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
        begin = end;
      }
    }
    list.pieces = std::move(out);
  }

 private:
  std::string replacement_;
  Prepend prepend_;
  bool split_;
};

class Sequence : public PreTokenizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<PreTokenizer>> stages)
      : stages_(std::move(stages)) {}
  void apply(PieceList& list) const override {
    for (const auto& stage : stages_) stage->apply(list);
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> stages_;
};

SplitBehavior behavior_of(const nlohmann::json& json, const char* otherwise,
                          const std::string& where) {
  const std::string name = find_string(json, "behavior", where).value_or(otherwise);
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  throw Error(where, "behavior " + quote(name) + " is not supported");
}

bool is_bert_punctuation(char32_t c) { return is_ascii_punctuation(c) || is_punctuation(c); }

std::unique_ptr<PreTokenizer> load_metaspace(const nlohmann::json& json, const std::string& where) {
  const std::string replacement = find_string(json, "replacement", where).value_or("\xE2\x96\x81");
  size_t pos = 0;
  if (!replacement.empty()) take_code_point(replacement, pos);
  if (replacement.empty() || pos != replacement.size())
    throw Error(where, "'replacement' is not one character");
  using Prepend = Metaspace::Prepend;
  Prepend prepend =
      get_bool(json, "add_prefix_space", true, where) ? Prepend::kAlways : Prepend::kNever;
  if (const auto scheme = find_string(json, "prepend_scheme", where)) {
    if (*scheme == "always") {
      prepend = Prepend::kAlways;
    } else if (*scheme == "first") {
      prepend = Prepend::kFirst;
    } else if (*scheme == "never") {
      prepend = Prepend::kNever;
    } else {
      throw Error(where, "prepend_scheme " + quote(*scheme) + " is not supported");
    }
  }
  return std::make_unique<Metaspace>(replacement, prepend, get_bool(json, "split", true, where));
}

// last: nothing follows this stage.
std::unique_ptr<PreTokenizer> load(const nlohmann::json& json, const std::string& where, bool last,
                                   bool& byte_level, int depth) {
  if (json.is_null()) return nullptr;
  if (depth > kMaxPipelineDepth) throw Error(where, "is nested too deeply");
  const std::string type = get_string(json, "type", where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<PreTokenizer>> stages;
    const auto& list = get_array(json, "pretokenizers", where);
    for (size_t i = 0; i < list.size(); ++i) {
      auto stage = load(list[i], where, last && i + 1 == list.size(), byte_level, depth + 1);
      if (stage) stages.push_back(std::move(stage));
    }
    return std::make_unique<Sequence>(std::move(stages));
  }
  if (type == "ByteLevel") {
    if (last) byte_level = true;
    return std::make_unique<ByteLevel>(get_bool(json, "add_prefix_space", true, where),
                                       get_bool(json, "use_regex", true, where), !last, where);
  }
  if (type == "Split") {
    return std::make_unique<Split>(get_pattern(json, where), behavior_of(json, "", where),
                                   get_bool(json, "invert", false, where), where);
  }
  if (type == "Digits") {
    const bool individual = get_bool(json, "individual_digits", false, where);
    return std::make_unique<SplitCharacters>(
        is_numeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "Punctuation") {
    return std::make_unique<SplitCharacters>(is_bert_punctuation,
                                             behavior_of(json, "Isolated", where));
  }
  if (type == "WhitespaceSplit")
    return std::make_unique<SplitCharacters>(is_whitespace, SplitBehavior::kRemoved);
  if (type == "Whitespace") return std::make_unique<Whitespace>();
  if (type == "BertPreTokenizer") {
    std::vector<std::unique_ptr<PreTokenizer>> stages;
    stages.push_back(std::make_unique<SplitCharacters>(is_whitespace, SplitBehavior::kRemoved));
    stages.push_back(
        std::make_unique<SplitCharacters>(is_bert_punctuation, SplitBehavior::kIsolated));
    return std::make_unique<Sequence>(std::move(stages));
  }
  if (type == "Metaspace") return load_metaspace(json, where);
  throw Error(where, "type " + quote(type) + " is not supported");
}

}  // namespace

void cut(const Piece& piece, const std::vector<TextSpan>& spans, SplitBehavior behavior,
         std::vector<Piece>& out) {
  const size_t first = out.size();
  const auto emit = [&](size_t begin, size_t end) {
    if (begin < end)
      out.push_back({piece.text.substr(begin, end - begin), piece.at_start && begin == 0});
  };
  switch (behavior) {
    case SplitBehavior::kIsolated:
      for (const auto& span : spans) emit(span.begin, span.end);
      return;
    case SplitBehavior::kRemoved:
      for (const auto& span : spans) {
        if (!span.match) emit(span.begin, span.end);
      }
      return;
    case SplitBehavior::kContiguous:
      for (size_t i = 0; i < spans.size();) {
        size_t end = i + 1;
        while (end < spans.size() && spans[end].match == spans[i].match) ++end;
        emit(spans[i].begin, spans[end - 1].end);
        i = end;
      }
      return;
    case SplitBehavior::kMergedWithPrevious:
      // Only the first of several matches in a row joins what stands before it.
      for (size_t i = 0; i < spans.size();) {
        size_t end = i + 1;
        if (!spans[i].match && end < spans.size() && spans[end].match) ++end;
        emit(spans[i].begin, spans[end - 1].end);
        i = end;
      }
      return;
    case SplitBehavior::kMergedWithNext:
      for (size_t i = spans.size(); i > 0;) {
        size_t begin = i - 1;
        if (!spans[begin].match && begin > 0 && spans[begin - 1].match) --begin;
        emit(spans[begin].begin, spans[i - 1].end);
        i = begin;
      }
      std::reverse(out.begin() + static_cast<ptrdiff_t>(first), out.end());
      return;
  }
}

std::unique_ptr<PreTokenizer> PreTokenizer::from_json(const nlohmann::json& json,
                                                      const std::string& where, bool& byte_level) {
  byte_level = false;
  return load(json, where, true, byte_level, 0);
}

}  // namespace nanovllm
