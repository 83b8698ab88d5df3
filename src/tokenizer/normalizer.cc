#include "tokenizer/normalizer.h"

#include "formats/text.h"
#include "nanovllm/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"
#include "tokenizer/unicode_extras.h"

namespace nanovllm {

namespace {

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(NormalForm form) : form_(form) {}
  void apply(NormalizedText& text) const override { text.text = normalize(text.text, form_); }

 private:
  NormalForm form_;
};

class Lowercase : public Normalizer {
 public:
  void apply(NormalizedText& text) const override { text.text = to_lower(text.text); }
};

class ByteLevelAlphabet : public Normalizer {
 public:
  void apply(NormalizedText& text) const override { text.text = bytes_to_chars(text.text); }
};

std::string without(std::string_view text, bool (*unwanted)(char32_t)) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    const size_t begin = pos;
    if (!unwanted(take_code_point(text, pos))) out += text.substr(begin, pos - begin);
  }
  return out;
}

class StripAccents : public Normalizer {
 public:
  void apply(NormalizedText& text) const override { text.text = without(text.text, is_accent); }

 private:
  static bool is_accent(char32_t c) { return is_combining_mark(c) && !is_mark_since_unicode9(c); }
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(NormalizedText& text) const override {
    const std::string_view all = text.text;
    size_t begin = all.size(), end = 0;  // of what is not white space
    for (size_t pos = 0; pos < all.size();) {
      const size_t at = pos;
      if (is_whitespace(take_code_point(all, pos))) continue;
      begin = std::min(begin, at);
      end = pos;
    }
    if (end == 0) {  // nothing but white space
      if (left_ || right_) text.text.clear();
      return;
    }
    if (!left_) begin = 0;
    if (!right_) end = all.size();
    if (begin > 0) text.at_start = false;
    text.text = std::string(all.substr(begin, end - begin));
  }

 private:
  bool left_, right_;
};

class Replace : public Normalizer {
 public:
  Replace(const PatternField& pattern, std::string content, const std::string& where)
      : literal_(pattern.text), content_(std::move(content)) {
    if (pattern.regex || literal_.empty()) {
      regex_ = std::make_unique<Regex>(pattern.regex ? pattern.text : Regex::escape(pattern.text),
                                       where);
    }
  }
  void apply(NormalizedText& text) const override {
    std::string out;
    if (regex_) {
      std::vector<TextSpan> spans;
      regex_->split(text.text, spans);
      for (const auto& span : spans) {
        if (span.match) {
          out += content_;
        } else {
          out.append(text.text, span.begin, span.end - span.begin);
        }
      }
    } else {
      size_t from = 0;
      for (size_t at; (at = text.text.find(literal_, from)) != std::string::npos;
           from = at + literal_.size()) {
        out.append(text.text, from, at - from);
        out += content_;
      }
      out.append(text.text, from);
    }
    text.text = std::move(out);
  }

 private:
  std::string literal_, content_;
  std::unique_ptr<Regex> regex_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void apply(NormalizedText& text) const override {
    if (!text.text.empty()) text.text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Bert : public Normalizer {
 public:
  Bert(bool clean, bool chinese, bool strip_accents, bool lowercase)
      : clean_(clean), chinese_(chinese), strip_accents_(strip_accents), lowercase_(lowercase) {}
  void apply(NormalizedText& text) const override {
    std::string out;
    for (size_t pos = 0; pos < text.text.size();) {
      char32_t c = take_code_point(text.text, pos);
      const bool blank = c == '\t' || c == '\n' || c == '\r' || is_whitespace(c);
      if (clean_ && (c == 0 || c == 0xFFFD || (!blank && is_control(c)))) continue;
      if (clean_ && blank) c = ' ';
      if (chinese_ && is_ideograph(c)) {
        out += ' ';
        append_utf8(out, c);
        out += ' ';
      } else {
        append_utf8(out, c);
      }
    }
    if (strip_accents_) out = without(normalize(out, NormalForm::kNfd), is_nonspacing_mark);
    if (lowercase_) out = to_lower(out);
    text.text = std::move(out);
  }

 private:
  static bool is_ideograph(char32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
           (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
           (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }
  bool clean_, chinese_, strip_accents_, lowercase_;
};

class Sequence : public Normalizer {
 public:
  explicit Sequence(std::vector<std::unique_ptr<Normalizer>> stages) : stages_(std::move(stages)) {}
  void apply(NormalizedText& text) const override {
    for (const auto& stage : stages_) stage->apply(text);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> stages_;
};

std::unique_ptr<Normalizer> load(const nlohmann::json& json, const std::string& where, int depth) {
  if (json.is_null()) return nullptr;
  if (depth > kMaxPipelineDepth) throw Error(where, "is nested too deeply");
  const std::string type = get_string(json, "type", where);
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> stages;
    for (const auto& stage : get_array(json, "normalizers", where)) {
      if (auto loaded = load(stage, where, depth + 1)) stages.push_back(std::move(loaded));
    }
    return std::make_unique<Sequence>(std::move(stages));
  }
  if (type == "NFC") return std::make_unique<UnicodeForm>(NormalForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeForm>(NormalForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(NormalForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(NormalForm::kNfkd);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "StripAccents") return std::make_unique<StripAccents>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelAlphabet>();
  if (type == "Strip") {
    return std::make_unique<Strip>(get_bool(json, "strip_left", true, where),
                                   get_bool(json, "strip_right", true, where));
  }
  if (type == "Replace") {
    return std::make_unique<Replace>(get_pattern(json, where), get_string(json, "content", where),
                                     where);
  }
  if (type == "Prepend") return std::make_unique<Prepend>(get_string(json, "prepend", where));
  if (type == "BertNormalizer") {
    const bool lowercase = get_bool(json, "lowercase", true, where);
    return std::make_unique<Bert>(get_bool(json, "clean_text", true, where),
                                  get_bool(json, "handle_chinese_chars", true, where),
                                  get_bool(json, "strip_accents", lowercase, where), lowercase);
  }
  throw Error(where, "type " + quote(type) + " is not supported");
}

}  // namespace

std::unique_ptr<Normalizer> Normalizer::from_json(const nlohmann::json& json,
                                                  const std::string& where) {
  return load(json, where, 0);
}

}  // namespace nanovllm
