// The pre-tokenizers that GGUF files name (tokenizer.ggml.pre) without describing them, as the
// original checkpoints' own tokenizer.json files state them.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace nanovllm {

struct NamedPreTokenizer {
  nlohmann::json normalizer, pre_tokenizer;  // as in tokenizer.json
  bool ignore_merges = false;
  bool add_bos = false;  // unless the file says otherwise
};

// Nothing for a name that is not known.
std::optional<NamedPreTokenizer> find_pre_tokenizer(std::string_view name);

}  // namespace nanovllm
