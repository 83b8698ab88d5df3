#include "tokenizer/tokenizer.h"

namespace nanovllm {

namespace {

class TokenByToken : public TextStream {
 public:
  TokenByToken(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_special_tokens_(skip_special_tokens) {}
  std::string add(int32_t id) override { return tokenizer_.decode({&id, 1}, skip_special_tokens_); }
  std::string finish() override { return {}; }

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_tokens_;
};

}  // namespace

std::unique_ptr<TextStream> Tokenizer::stream(bool skip_special_tokens) const {
  return std::make_unique<TokenByToken>(*this, skip_special_tokens);
}

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special_tokens)
    : stream_(tokenizer.stream(skip_special_tokens)) {}

std::string IncrementalDetokenizer::add(int32_t id) { return stream_->add(id); }

std::string IncrementalDetokenizer::finish() { return stream_->finish(); }

}  // namespace nanovllm
