// Decoder: token strings back to text, as a chain of stages that work token by token. Decoding a
// whole list and decoding a growing one are the same code, so that a stream's pieces always
// concatenate to the whole.
//
// A stage sees tokens one at a time and holds back what a later token may still change:
// ByteFallback a run of byte tokens, ByteLevel an unfinished character, Strip the characters it may
// have to drop at the end. Once the tokens are fused (after Fuse or ByteLevel) what arrives are
// fragments of one long token.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace nanovllm {

class Regex;

// The state of one stage in one stream.
class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual void add(std::string_view token, std::vector<std::string>& out) = 0;
  virtual void finish(std::vector<std::string>&) {}
};

struct DecoderSpec {
  enum class Kind { kByteLevel, kMetaspace, kByteFallback, kFuse, kReplace, kStrip, kBpe, kJoin };
  Kind kind = Kind::kFuse;
  bool fused = false;  // what arrives are fragments of one token
  std::string pattern,
      content;  // Replace; Metaspace's and Strip's character, BPEDecoder's suffix in pattern
  std::shared_ptr<const Regex> regex;  // Replace with a regular expression
  bool prepended = false;              // Metaspace: the first token lost its leading space
  size_t start = 0, stop = 0;          // Strip
};

class Decoder {
 public:
  // The "decoder" object; null joins tokens by spaces, as Hugging Face does. Throws Error(where,
  // ...).
  static Decoder from_json(const nlohmann::json& json, const std::string& where);

  std::vector<std::unique_ptr<DecoderStage>> stages() const;
  // What a token adds behind another one, as bytes: a part of a character stays one.
  std::string bytes_of(const std::string& token) const;

 private:
  std::vector<DecoderSpec> specs_;
};

// One stream through a decoder.
class DecoderStream {
 public:
  explicit DecoderStream(const Decoder& decoder) : stages_(decoder.stages()) {}
  void add(std::string_view token, std::string& text);  // appends what is certain
  void finish(std::string& text);

 private:
  void run(size_t first_stage, std::string& text);
  std::vector<std::unique_ptr<DecoderStage>> stages_;
  std::vector<std::string> tokens_, next_;
};

}  // namespace nanovllm
