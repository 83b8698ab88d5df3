#include "tokenizer/decoder_stages.h"

#include <optional>

#include "tokenizer/byte_level.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

using Tokens = std::vector<std::string>;
constexpr char kReplacementCharacter[] = "\xEF\xBF\xBD";

class ByteLevelStage : public DecoderStage {
 public:
  void add(std::string_view token, Tokens& out) override {
    // A token with a character outside the alphabet (an added one) is taken as it is.
    const size_t before = pending_.size();
    for (size_t pos = 0; pos < token.size();) {
      const auto byte = char_to_byte(take_code_point(token, pos));
      if (!byte) {
        pending_.resize(before);
        pending_ += token;
        break;
      }
      pending_.push_back(static_cast<char>(*byte));
    }
    flush(out, false);
  }
  void finish(Tokens& out) override { flush(out, true); }

 private:
  // Writes all but a character that more bytes could still complete.
  void flush(Tokens& out, bool all) {
    std::string text;
    size_t pos = 0;
    while (pos < pending_.size()) {
      const std::string_view rest = std::string_view(pending_).substr(pos);
      const Utf8Unit unit = next_utf8(rest);
      if (unit.truncated && !all) break;
      const auto length = static_cast<size_t>(unit.length);
      text += unit.valid ? rest.substr(0, length) : std::string_view(kReplacementCharacter);
      pos += length;
    }
    pending_.erase(0, pos);
    if (!text.empty()) out.push_back(std::move(text));
  }
  std::string pending_;
};

class MetaspaceStage : public DecoderStage {
 public:
  explicit MetaspaceStage(const DecoderSpec& spec) : spec_(spec) {}
  void add(std::string_view token, Tokens& out) override {
    const bool drop = first_ && spec_.prepended;
    if (!spec_.fused) first_ = false;
    std::string text;
    for (size_t pos = 0; pos < token.size();) {
      const auto length = static_cast<size_t>(utf8_length(token[pos]));
      const std::string_view c = token.substr(pos, length);
      pos += length;
      if (c != spec_.pattern) {
        text += c;
      } else if (!drop) {
        text += ' ';
      }
    }
    out.push_back(std::move(text));
  }

 private:
  const DecoderSpec& spec_;
  bool first_ = true;
};

// A run of <0xNN> tokens is text if all of it is valid UTF-8, else one U+FFFD a byte: nothing is
// certain before its end.
class ByteFallbackStage : public DecoderStage {
 public:
  void add(std::string_view token, Tokens& out) override {
    if (const auto byte = fallback_byte(token)) {
      run_.push_back(static_cast<char>(*byte));
      return;
    }
    finish(out);
    out.emplace_back(token);
  }
  void finish(Tokens& out) override {
    if (run_.empty()) return;
    if (is_valid_utf8(run_)) {
      out.push_back(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) out.emplace_back(kReplacementCharacter);
    }
    run_.clear();
  }

 private:
  std::string run_;
};

// Marks the border behind which tokens are fragments of one; the text itself passes.
class FuseStage : public DecoderStage {
 public:
  void add(std::string_view token, Tokens& out) override { out.emplace_back(token); }
};

std::string replace_all(std::string_view text, const DecoderSpec& spec) {
  std::string out;
  if (spec.regex) {
    std::vector<TextSpan> spans;
    spec.regex->split(text, spans);
    for (const auto& span : spans) {
      out += span.match ? std::string_view(spec.content)
                        : text.substr(span.begin, span.end - span.begin);
    }
    return out;
  }
  size_t from = 0;
  for (size_t at; (at = text.find(spec.pattern, from)) != std::string_view::npos;
       from = at + spec.pattern.size()) {
    out += text.substr(from, at - from);
    out += spec.content;
  }
  out += text.substr(from);
  return out;
}

class ReplaceStage : public DecoderStage {
 public:
  explicit ReplaceStage(const DecoderSpec& spec) : spec_(spec) {}
  void add(std::string_view token, Tokens& out) override {
    out.push_back(replace_all(token, spec_));
  }

 private:
  const DecoderSpec& spec_;
};

// Replace on one long token that arrives in fragments. A literal holds back what may be the start
// of a match; a regular expression may look at anything, so all of it waits for the end.
class FusedReplaceStage : public DecoderStage {
 public:
  explicit FusedReplaceStage(const DecoderSpec& spec) : spec_(spec) {}
  void add(std::string_view token, Tokens& out) override {
    text_ += token;
    if (spec_.regex) return;
    std::string done;
    size_t from = 0;
    for (size_t at; (at = text_.find(spec_.pattern, from)) != std::string::npos;
         from = at + spec_.pattern.size()) {
      done.append(text_, from, at - from);
      done += spec_.content;
    }
    size_t held = std::min(spec_.pattern.size() - 1, text_.size() - from);
    while (held > 0 && text_.compare(text_.size() - held, held, spec_.pattern, 0, held) != 0)
      --held;
    done.append(text_, from, text_.size() - held - from);
    text_.erase(0, text_.size() - held);
    if (!done.empty()) out.push_back(std::move(done));
  }
  void finish(Tokens& out) override {
    if (!text_.empty()) out.push_back(replace_all(text_, spec_));
    text_.clear();
  }

 private:
  const DecoderSpec& spec_;
  std::string text_;
};

// Byte length of the strip character's run at the front (of at most `most`).
size_t leading(std::string_view text, std::string_view c, size_t most) {
  size_t n = 0;
  while (n < most && text.substr(n * c.size(), c.size()) == c) ++n;
  return n * c.size();
}

size_t trailing(std::string_view text, std::string_view c, size_t most) {
  size_t n = 0;
  while (n < most && text.size() >= (n + 1) * c.size() &&
         text.substr(text.size() - (n + 1) * c.size(), c.size()) == c) {
    ++n;
  }
  return n * c.size();
}

class StripStage : public DecoderStage {
 public:
  explicit StripStage(const DecoderSpec& spec) : spec_(spec) {}
  void add(std::string_view token, Tokens& out) override {
    token.remove_prefix(leading(token, spec_.pattern, spec_.start));
    token.remove_suffix(trailing(token, spec_.pattern, spec_.stop));
    out.emplace_back(token);
  }

 private:
  const DecoderSpec& spec_;
};

class FusedStripStage : public DecoderStage {
 public:
  explicit FusedStripStage(const DecoderSpec& spec) : spec_(spec), left_(spec.start) {}
  void add(std::string_view token, Tokens& out) override {
    text_ += token;
    if (left_ > 0) {
      const size_t cut = leading(text_, spec_.pattern, left_);
      text_.erase(0, cut);
      left_ -= cut / spec_.pattern.size();
      if (!text_.empty()) left_ = 0;
    }
    const size_t held = trailing(text_, spec_.pattern, spec_.stop);
    if (held == text_.size()) return;
    out.push_back(text_.substr(0, text_.size() - held));
    text_.erase(0, text_.size() - held);
  }
  void finish(Tokens&) override { text_.clear(); }

 private:
  const DecoderSpec& spec_;
  size_t left_;
  std::string text_;
};

// The suffix marks the end of a word: a space, but for the last token.
class BpeStage : public DecoderStage {
 public:
  explicit BpeStage(const DecoderSpec& spec) : spec_(spec) {}
  void add(std::string_view token, Tokens& out) override {
    write(" ", out);
    held_ = std::string(token);
  }
  void finish(Tokens& out) override { write("", out); }

 private:
  void write(const char* content, Tokens& out) {
    if (!held_) return;
    DecoderSpec replace;
    replace.pattern = spec_.pattern;
    replace.content = content;
    out.push_back(replace_all(*held_, replace));
    held_.reset();
  }
  const DecoderSpec& spec_;
  std::optional<std::string> held_;
};

class JoinStage : public DecoderStage {
 public:
  void add(std::string_view token, Tokens& out) override {
    out.push_back((first_ ? "" : " ") + std::string(token));
    first_ = false;
  }

 private:
  bool first_ = true;
};

}  // namespace

std::optional<uint8_t> fallback_byte(std::string_view token) {
  auto hex = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  // Rust's parser takes a sign.
  const int high = token[3] == '+' ? 0 : hex(token[3]), low = hex(token[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

std::unique_ptr<DecoderStage> make_decoder_stage(const DecoderSpec& spec) {
  using Kind = DecoderSpec::Kind;
  switch (spec.kind) {
    case Kind::kByteLevel:
      return std::make_unique<ByteLevelStage>();
    case Kind::kMetaspace:
      return std::make_unique<MetaspaceStage>(spec);
    case Kind::kByteFallback:
      return std::make_unique<ByteFallbackStage>();
    case Kind::kFuse:
      return std::make_unique<FuseStage>();
    case Kind::kReplace:
      if (spec.fused) return std::make_unique<FusedReplaceStage>(spec);
      return std::make_unique<ReplaceStage>(spec);
    case Kind::kStrip:
      if (spec.fused) return std::make_unique<FusedStripStage>(spec);
      return std::make_unique<StripStage>(spec);
    case Kind::kBpe:
      // On one long token, which is also the last, the suffix stands for nothing:
      // Decoder::from_json makes it a Replace.
      return std::make_unique<BpeStage>(spec);
    case Kind::kJoin:
      return std::make_unique<JoinStage>();
  }
  return nullptr;
}

}  // namespace nanovllm
