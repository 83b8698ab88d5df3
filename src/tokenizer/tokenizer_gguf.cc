// Tokenizer::from_gguf: the tokenizer.ggml.* metadata of a GGUF file, turned into the stages of a
// Pipeline.
#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "formats/text.h"
#include "nanovllm/error.h"
#include "tokenizer/gguf_pre_tokenizers.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

using nlohmann::json;

constexpr char kMetaspace[] = "\xE2\x96\x81";  // U+2581, SentencePiece's space

std::string key(const char* name) { return std::string("tokenizer.ggml.") + name; }

std::string where(const GgufFile& file, const char* name) {
  return file.path() + ": key " + quote(key(name));
}

std::optional<int32_t> token_id(const GgufFile& file, const char* name, size_t vocab_size) {
  const auto id = file.get_int(key(name));
  if (!id) return std::nullopt;
  // Converters write 2^32-1 for "none".
  if (*id == -1 || *id == 0xFFFFFFFF) return std::nullopt;
  if (*id < 0 || static_cast<uint64_t>(*id) >= vocab_size) {
    throw Error(where(file, name), "the id " + std::to_string(*id) + " is outside the vocabulary");
  }
  return static_cast<int32_t>(*id);
}

std::vector<PieceType> load_types(const GgufFile& file, size_t vocab_size) {
  std::vector<PieceType> types(vocab_size, PieceType::kNormal);
  const auto* values = file.get_ints(key("token_type"));
  if (values == nullptr) return types;
  if (values->size() != vocab_size)
    throw Error(where(file, "token_type"), "is not as long as the token list");
  for (size_t i = 0; i < vocab_size; ++i) {
    const int64_t value = (*values)[i];
    if (value < 0 || value > 6) {
      throw Error(
          where(file, "token_type"),
          "token " + std::to_string(i) + " is of the unknown type " + std::to_string(value));
    }
    types[i] = static_cast<PieceType>(value);
  }
  return types;
}

std::vector<float> load_scores(const GgufFile& file, size_t vocab_size) {
  const auto* values = file.get_doubles(key("scores"));
  if (values == nullptr) throw Error(where(file, "scores"), "is missing");
  if (values->size() != vocab_size)
    throw Error(where(file, "scores"), "is not as long as the token list");
  return {values->begin(), values->end()};
}

std::vector<BpeModel::Merge> load_merges(const GgufFile& file) {
  const auto* list = file.get_strings(key("merges"));
  if (list == nullptr) throw Error(where(file, "merges"), "is missing");
  std::vector<BpeModel::Merge> merges;
  merges.reserve(list->size());
  for (const std::string_view merge : *list) {
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos) {
      throw Error(where(file, "merges"),
                  "merge " + std::to_string(merges.size()) + " is not two tokens and a space");
    }
    merges.emplace_back(to_valid_utf8(merge.substr(0, space)),
                        to_valid_utf8(merge.substr(space + 1)));
  }
  return merges;
}

// Control and unknown tokens are special; those and user-defined ones are found when they are
// written out in the text.
void load_added_tokens(const GgufFile::Strings& tokens, const std::vector<PieceType>& types,
                       PipelineParts& parts) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool special = types[i] == PieceType::kControl || types[i] == PieceType::kUnknown;
    if (!special && types[i] != PieceType::kUserDefined) continue;
    AddedToken token;
    token.content = to_valid_utf8(tokens[i]);
    token.id = static_cast<int32_t>(i);
    token.special = special;
    token.normalized = false;
    if (!token.content.empty()) parts.added.push_back(std::move(token));
  }
}

json metaspace_normalizer(bool add_space_prefix) {
  json stages = json::array();
  if (add_space_prefix) stages.push_back({{"type", "Prepend"}, {"prepend", kMetaspace}});
  stages.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMetaspace}});
  return {{"type", "Sequence"}, {"normalizers", stages}};
}

json metaspace_decoder(bool add_space_prefix) {
  json stages = json::array();
  stages.push_back({{"type", "Replace"}, {"pattern", {{"String", kMetaspace}}}, {"content", " "}});
  stages.push_back({{"type", "ByteFallback"}});
  stages.push_back({{"type", "Fuse"}});
  if (add_space_prefix)
    stages.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", stages}};
}

void load_byte_level(const GgufFile& file, PipelineParts& parts, bool& add_bos) {
  const std::string_view name = file.get_string(key("pre")).value_or("");
  const auto named = find_pre_tokenizer(name);
  if (!named)
    throw Error(where(file, "pre"), "the pre-tokenizer " + quote(name) + " is not supported");
  add_bos = named->add_bos;
  BpeOptions options;
  options.ignore_merges = named->ignore_merges;
  parts.normalizer = Normalizer::from_json(named->normalizer, where(file, "pre"));
  parts.pre_tokenizer =
      PreTokenizer::from_json(named->pre_tokenizer, where(file, "pre"), options.byte_level);
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, load_merges(file), options,
                                           where(file, "merges"));
  parts.decoder = Decoder::from_json({{"type", "ByteLevel"}}, file.path());
}

void load_sentencepiece(const GgufFile& file, std::vector<PieceType> types, PipelineParts& parts) {
  const size_t size = types.size();
  const bool add_space_prefix = file.get_bool(key("add_space_prefix")).value_or(true);
  if (file.get_bool(key("remove_extra_whitespaces")).value_or(false)) {
    throw Error(where(file, "remove_extra_whitespaces"), "is not supported");
  }
  parts.normalizer = Normalizer::from_json(metaspace_normalizer(add_space_prefix), file.path());
  auto unk = token_id(file, "unknown_token_id", size);
  if (!unk && size > 0) unk = 0;
  parts.model = std::make_unique<SentencePieceModel>(*parts.vocabulary, load_scores(file, size),
                                                     std::move(types), unk);
  parts.decoder = Decoder::from_json(metaspace_decoder(add_space_prefix), file.path());
}

// Gemma 4: merges by rank over text with SentencePiece's spaces, bytes for what is not in the
// vocabulary.
void load_metaspace_bpe(const GgufFile& file, PipelineParts& parts) {
  const json lines = {
      {"type", "Split"}, {"pattern", {{"Regex", "[^\\n]+|[\\n]+"}}}, {"behavior", "Isolated"}};
  BpeOptions options;
  options.byte_fallback = true;
  bool byte_level = false;
  parts.normalizer = Normalizer::from_json(metaspace_normalizer(false), file.path());
  parts.pre_tokenizer = PreTokenizer::from_json(lines, file.path(), byte_level);
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, load_merges(file), options,
                                           where(file, "merges"));
  parts.decoder = Decoder::from_json(metaspace_decoder(false), file.path());
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_gguf(const GgufFile& file) {
  const auto model = file.get_string(key("model"));
  if (!model) return nullptr;
  const auto* tokens = file.get_strings(key("tokens"));
  if (tokens == nullptr) throw Error(where(file, "tokens"), "is missing");
  if (tokens->size() > static_cast<size_t>(Vocabulary::kMaxId))
    throw Error(where(file, "tokens"), "has too many tokens");

  PipelineParts parts;
  // Backwards, so that of two equal strings the first keeps its id.
  for (size_t i = tokens->size(); i-- > 0;) {
    parts.vocabulary->add(to_valid_utf8((*tokens)[i]), static_cast<int32_t>(i));
  }
  auto types = load_types(file, tokens->size());
  load_added_tokens(*tokens, types, parts);
  parts.bos = token_id(file, "bos_token_id", tokens->size());
  parts.eos = token_id(file, "eos_token_id", tokens->size());
  if (const auto text = file.get_string("tokenizer.chat_template"))
    parts.chat_template = to_valid_utf8(*text);

  bool add_bos = false;
  if (*model == "gpt2") {
    load_byte_level(file, parts, add_bos);
  } else if (*model == "llama") {
    add_bos = true;
    load_sentencepiece(file, std::move(types), parts);
  } else if (*model == "gemma4") {
    load_metaspace_bpe(file, parts);
  } else {
    throw Error(where(file, "model"), "the tokenizer " + quote(*model) + " is not supported");
  }
  if (file.get_bool(key("add_bos_token")).value_or(add_bos) && parts.bos)
    parts.prefix.push_back(*parts.bos);
  if (file.get_bool(key("add_eos_token")).value_or(false) && parts.eos)
    parts.suffix.push_back(*parts.eos);
  return std::make_unique<Pipeline>(std::move(parts));
}

}  // namespace nanovllm
