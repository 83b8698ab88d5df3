#include "tokenizer/decoder.h"

#include <algorithm>

#include "formats/text.h"
#include "nanovllm/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/decoder_stages.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/regex.h"

namespace nanovllm {

namespace {

using Kind = DecoderSpec::Kind;

void load(const nlohmann::json& json, const std::string& where, int depth,
          std::vector<DecoderSpec>& specs) {
  if (depth > kMaxPipelineDepth) throw Error(where, "is nested too deeply");
  const std::string type = get_string(json, "type", where);
  if (type == "Sequence") {
    for (const auto& stage : get_array(json, "decoders", where))
      load(stage, where, depth + 1, specs);
    return;
  }
  DecoderSpec spec;
  spec.fused = !specs.empty() && (specs.back().fused || specs.back().kind == Kind::kFuse ||
                                  specs.back().kind == Kind::kByteLevel);
  if (type == "ByteLevel") {
    spec.kind = Kind::kByteLevel;
    if (spec.fused) throw Error(where, "ByteLevel behind Fuse or ByteLevel is not supported");
  } else if (type == "Metaspace") {
    spec.kind = Kind::kMetaspace;
    spec.pattern = find_string(json, "replacement", where).value_or("\xE2\x96\x81");
    const bool legacy = get_bool(json, "add_prefix_space", true, where);
    spec.prepended =
        find_string(json, "prepend_scheme", where).value_or(legacy ? "always" : "never") != "never";
  } else if (type == "ByteFallback") {
    spec.kind = Kind::kByteFallback;
    if (spec.fused) throw Error(where, "ByteFallback behind Fuse or ByteLevel is not supported");
  } else if (type == "Fuse") {
    spec.kind = Kind::kFuse;
  } else if (type == "Replace") {
    spec.kind = Kind::kReplace;
    const PatternField pattern = get_pattern(json, where);
    spec.pattern = pattern.text;
    spec.content = get_string(json, "content", where);
    if (pattern.regex) spec.regex = std::make_shared<Regex>(pattern.text, where);
    if (pattern.text.empty()) throw Error(where, "Replace with an empty pattern is not supported");
  } else if (type == "Strip") {
    spec.kind = Kind::kStrip;
    spec.pattern = get_string(json, "content", where);
    spec.start = static_cast<size_t>(get_int(json, "start", where));
    spec.stop = static_cast<size_t>(get_int(json, "stop", where));
    if (spec.pattern.empty()) throw Error(where, "Strip without a character");
  } else if (type == "BPEDecoder") {
    spec.kind = spec.fused ? Kind::kReplace : Kind::kBpe;
    spec.pattern = find_string(json, "suffix", where).value_or("</w>");
    if (spec.pattern.empty())
      throw Error(where, "BPEDecoder with an empty suffix is not supported");
  } else {
    throw Error(where, "type " + quote(type) + " is not supported");
  }
  specs.push_back(std::move(spec));
}

}  // namespace

Decoder Decoder::from_json(const nlohmann::json& json, const std::string& where) {
  Decoder decoder;
  if (json.is_null()) {
    decoder.specs_.push_back({Kind::kJoin});
  } else {
    load(json, where, 0, decoder.specs_);
  }
  return decoder;
}

std::vector<std::unique_ptr<DecoderStage>> Decoder::stages() const {
  std::vector<std::unique_ptr<DecoderStage>> stages;
  for (const auto& spec : specs_) stages.push_back(make_decoder_stage(spec));
  return stages;
}

std::string Decoder::bytes_of(const std::string& token) const {
  auto has = [&](Kind kind) {
    return std::any_of(specs_.begin(), specs_.end(), [&](const auto& s) { return s.kind == kind; });
  };
  if (has(Kind::kByteLevel)) return chars_to_bytes(token).value_or(token);
  if (has(Kind::kByteFallback))
    if (const auto byte = fallback_byte(token)) return std::string(1, static_cast<char>(*byte));
  DecoderStream stream(*this);
  std::string before, text;
  stream.add("a", before);  // the first token of a text may lose its space
  stream.add(token, text);
  stream.finish(text);
  return text;
}

void DecoderStream::add(std::string_view token, std::string& text) {
  if (stages_.size() == 1) {  // the common case, and the fast one
    tokens_.clear();
    stages_[0]->add(token, tokens_);
    for (const auto& t : tokens_) text += t;
    return;
  }
  tokens_.assign(1, std::string(token));
  run(0, text);
}

void DecoderStream::run(size_t first_stage, std::string& text) {
  for (size_t i = first_stage; i < stages_.size(); ++i) {
    next_.clear();
    for (const auto& token : tokens_) stages_[i]->add(token, next_);
    tokens_.swap(next_);
  }
  for (const auto& token : tokens_) text += token;
}

void DecoderStream::finish(std::string& text) {
  for (size_t i = 0; i < stages_.size(); ++i) {
    tokens_.clear();
    stages_[i]->finish(tokens_);
    run(i + 1, text);
  }
}

}  // namespace nanovllm
