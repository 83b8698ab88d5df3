// Tokenizer: text to token ids and back, identical to Hugging Face's `tokenizers` for the same
// tokenizer.json, and to the checkpoint's original tokenizer for GGUF metadata. Immutable after
// loading, so any number of threads may use one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nanovllm {

class GgufFile;

// One text that grows token by token: the pieces and the end concatenate to the decode of all ids.
class TextStream {
 public:
  virtual ~TextStream() = default;
  virtual std::string add(int32_t id) = 0;
  virtual std::string finish() = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // folder: tokenizer.json (and, for BOS / EOS policy and token names, tokenizer_config.json). Null
  // if the folder has no tokenizer.json. Throws Error naming the file, key and reason; what is not
  // supported is refused by name.
  static std::unique_ptr<Tokenizer> from_folder(const std::string& folder);
  static std::unique_ptr<Tokenizer> from_json(std::string_view tokenizer_json,
                                              std::string_view tokenizer_config_json,
                                              const std::string& name);
  // From tokenizer.ggml.* metadata. Null if the file has none.
  static std::unique_ptr<Tokenizer> from_gguf(const GgufFile& file);

  // Special tokens written out in the text are recognised, as in Hugging Face. add_special_tokens
  // adds BOS / EOS by the model's policy (post-processor). Invalid UTF-8 is replaced as Python's
  // decode(errors="replace") would. Linear in the text.
  virtual std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const = 0;
  // The whole text; ids outside the vocabulary give nothing. Always valid UTF-8 (U+FFFD for broken
  // bytes).
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const = 0;

  // decode(), piece by piece; must not outlive the tokenizer. The default is right where tokens
  // decode one by one.
  virtual std::unique_ptr<TextStream> stream(bool skip_special_tokens) const;

  virtual int32_t vocab_size() const = 0;  // largest id + 1
  virtual std::string id_to_token(
      int32_t id) const = 0;  // as written in the vocabulary; "" if none
  // The bytes the token adds to a text behind other tokens; often not whole characters. "" for
  // special tokens and ids outside the vocabulary.
  virtual std::string token_bytes(int32_t id) const = 0;
  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual std::optional<int32_t> bos_token_id() const = 0;
  virtual std::optional<int32_t> eos_token_id() const = 0;
  // As the model ships it (tokenizer_config.json, chat_template.jinja, or GGUF); empty if none.
  virtual const std::string& chat_template() const = 0;
};

// Turns a growing list of ids into text piece by piece: never half a character, and the pieces
// concatenate to exactly tokenizer.decode(all ids, skip_special_tokens). Amortised constant work a
// token. Must not outlive the tokenizer.
class IncrementalDetokenizer {
 public:
  IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special_tokens);
  std::string add(int32_t id);  // the new text that is certain
  std::string finish();         // what was held back (an incomplete character becomes U+FFFD)

 private:
  std::unique_ptr<TextStream> stream_;
};

}  // namespace nanovllm
