// Pipeline: the one Tokenizer there is, a chain of stages that tokenizer.json or GGUF metadata
// describe. Filled by a loader, then immutable.
//
//   text -> added tokens -> normalizer -> added tokens -> pre-tokenizer -> model -> ids -> BOS /
//   EOS ids -> token strings -> decoder -> text
#pragma once

#include <memory>
#include <unordered_set>

#include "tokenizer/added_vocabulary.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary.h"

namespace nanovllm {

struct PipelineParts {
  std::unique_ptr<Vocabulary> vocabulary =
      std::make_unique<Vocabulary>();  // the model's, without added tokens
  std::vector<AddedToken> added;
  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<TokenModel> model;            // may refer to *vocabulary
  Decoder decoder;
  std::vector<int32_t> prefix, suffix;  // what add_special_tokens puts around the text
  std::optional<int32_t> bos, eos;
  std::string chat_template;
};

class Pipeline : public Tokenizer {
 public:
  explicit Pipeline(PipelineParts parts);

  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const override;
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override;
  std::unique_ptr<TextStream> stream(bool skip_special_tokens) const override;
  int32_t vocab_size() const override { return vocab_size_; }
  std::string id_to_token(int32_t id) const override;
  std::string token_bytes(int32_t id) const override;
  std::optional<int32_t> token_to_id(std::string_view token) const override;
  bool is_special(int32_t id) const override;
  std::optional<int32_t> bos_token_id() const override { return parts_.bos; }
  std::optional<int32_t> eos_token_id() const override { return parts_.eos; }
  const std::string& chat_template() const override { return parts_.chat_template; }

  // What the id reads as in decode(); null for unknown ids and for special ones that are to be
  // skipped.
  const std::string* decodable(int32_t id, bool skip_special_tokens) const;
  const Decoder& decoder() const { return parts_.decoder; }

 private:
  const std::string* find_token(int32_t id) const;

  PipelineParts parts_;
  Vocabulary added_;
  std::unordered_set<std::string> special_;  // contents
  std::unordered_map<int32_t, std::string>
      decoded_;  // added tokens that decode as their normalized form
  AddedTokenMatcher raw_, normalized_;
  int32_t vocab_size_ = 0;
};

}  // namespace nanovllm
