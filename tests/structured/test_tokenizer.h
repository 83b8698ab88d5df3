// A tokenizer whose tokens are given as bytes; EOS is the last id.
#pragma once

#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace nanovllm {

class TestTokenizer : public Tokenizer {
 public:
  explicit TestTokenizer(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {
    tokens_.push_back("");
  }
  // All single bytes, and these.
  static TestTokenizer bytes_and(std::vector<std::string> more) {
    for (int b = 0; b < 256; ++b) more.push_back(std::string(1, static_cast<char>(b)));
    return TestTokenizer(std::move(more));
  }
  int32_t eos() const { return vocab_size() - 1; }

  std::vector<int32_t> encode(std::string_view, bool) const override { return {}; }
  std::string decode(std::span<const int32_t> ids, bool) const override {
    std::string text;
    for (int32_t id : ids) text += token_bytes(id);
    return text;
  }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  std::string id_to_token(int32_t id) const override { return tokens_[static_cast<size_t>(id)]; }
  std::string token_bytes(int32_t id) const override { return tokens_[static_cast<size_t>(id)]; }
  std::optional<int32_t> token_to_id(std::string_view) const override { return std::nullopt; }
  bool is_special(int32_t id) const override { return id == eos(); }
  std::optional<int32_t> bos_token_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_token_id() const override { return eos(); }
  const std::string& chat_template() const override { return none_; }

 private:
  std::vector<std::string> tokens_;
  std::string none_;
};

}  // namespace nanovllm
