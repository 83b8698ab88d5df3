// Tokenizer::from_folder and from_json: Hugging Face's tokenizer.json. Truncation and padding in
// the file are not applied: an engine never drops what it was given.
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/json.h"
#include "formats/text.h"
#include "nanovllm/error.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/unicode.h"

namespace nanovllm {

namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{256} << 20;
constexpr size_t kMaxTemplateBytes = size_t{4} << 20;

const json& member(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

int32_t checked_id(const json& value, const std::string& token, const std::string& where) {
  if (!value.is_number_unsigned() ||
      value.get<uint64_t>() > static_cast<uint64_t>(Vocabulary::kMaxId)) {
    throw Error(where, "the id of " + quote(token) + " is not a whole number from 0 to " +
                           std::to_string(Vocabulary::kMaxId));
  }
  return value.get<int32_t>();
}

std::vector<BpeModel::Merge> load_merges(const json& list, const std::string& where) {
  if (!list.is_array()) throw Error(where, "'merges' is not an array");
  std::vector<BpeModel::Merge> merges;
  merges.reserve(list.size());
  for (const auto& item : list) {
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (text.substr(0, 8) == "#version") continue;
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        throw Error(where, "merge " + std::to_string(merges.size()) +
                               " is not two tokens and a space: " + quote(text));
      }
      merges.emplace_back(text.substr(0, space), text.substr(space + 1));
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      merges.emplace_back(item[0].get<std::string>(), item[1].get<std::string>());
    } else {
      throw Error(where, "merge " + std::to_string(merges.size()) + " is not two tokens");
    }
  }
  return merges;
}

void load_model(const json& model, bool byte_level, const std::string& where,
                PipelineParts& parts) {
  if (!model.is_object()) throw Error(where, "is missing or not an object");
  const auto type = find_string(model, "type", where);
  // Files from before the field existed: BPE is the one with merges.
  if (type ? *type != "BPE" : !model.contains("merges")) {
    throw Error(where, "type " + quote(type.value_or("(none)")) + " is not supported, only BPE is");
  }
  const json& vocab = member(model, "vocab");
  if (!vocab.is_object()) throw Error(where, "'vocab' is not an object");
  for (const auto& [token, id] : vocab.items())
    parts.vocabulary->add(token, checked_id(id, token, where));

  const json& dropout = member(model, "dropout");
  if (!dropout.is_null() && !(dropout.is_number() && dropout.get<double>() == 0)) {
    throw Error(where, "dropout is not supported");
  }
  BpeOptions options;
  options.unk_token = find_string(model, "unk_token", where);
  options.continuing_subword_prefix = find_string(model, "continuing_subword_prefix", where);
  options.end_of_word_suffix = find_string(model, "end_of_word_suffix", where);
  if (options.continuing_subword_prefix == "") options.continuing_subword_prefix.reset();
  if (options.end_of_word_suffix == "") options.end_of_word_suffix.reset();
  options.fuse_unk = get_bool(model, "fuse_unk", false, where);
  options.byte_fallback = get_bool(model, "byte_fallback", false, where);
  options.ignore_merges = get_bool(model, "ignore_merges", false, where);
  options.byte_level = byte_level;
  const auto merges = load_merges(member(model, "merges"), where);
  parts.model = std::make_unique<BpeModel>(*parts.vocabulary, merges, std::move(options), where);
}

void load_added_tokens(const json& list, const std::string& where, PipelineParts& parts) {
  if (list.is_null()) return;
  if (!list.is_array()) throw Error(where, "is not an array");
  for (const auto& item : list) {
    AddedToken token;
    token.content = get_string(item, "content", where);
    token.id = checked_id(member(item, "id"), token.content, where);
    token.special = get_bool(item, "special", false, where);
    token.single_word = get_bool(item, "single_word", false, where);
    token.lstrip = get_bool(item, "lstrip", false, where);
    token.rstrip = get_bool(item, "rstrip", false, where);
    token.normalized = get_bool(item, "normalized", !token.special, where);
    if (token.content.empty()) continue;
    parts.added.push_back(std::move(token));
  }
}

// The ids of a TemplateProcessing special token.
void template_ids(const json& processor, const std::string& name, const std::string& where,
                  std::vector<int32_t>& out) {
  const json& tokens = member(processor, "special_tokens");
  if (!tokens.is_object() || !tokens.contains(name))
    throw Error(where, "special token " + quote(name) + " is not listed");
  for (const auto& id : get_array(tokens[name], "ids", where))
    out.push_back(checked_id(id, name, where));
}

void load_post_processor(const json& processor, const std::string& where, int depth,
                         PipelineParts& parts) {
  if (processor.is_null()) return;
  if (depth > kMaxPipelineDepth) throw Error(where, "is nested too deeply");
  const std::string type = get_string(processor, "type", where);
  std::vector<int32_t> before, after;
  if (type == "Sequence") {
    for (const auto& stage : get_array(processor, "processors", where)) {
      load_post_processor(stage, where, depth + 1, parts);
    }
  } else if (type == "TemplateProcessing") {
    bool seen = false;
    for (const auto& piece : get_array(processor, "single", where)) {
      if (piece.is_object() && piece.contains("SpecialToken")) {
        template_ids(processor, get_string(piece["SpecialToken"], "id", where), where,
                     seen ? after : before);
      } else if (piece.is_object() && piece.contains("Sequence") && !seen) {
        seen = true;
      } else {
        throw Error(where, "'single' is not one Sequence among SpecialTokens");
      }
    }
    if (!seen) throw Error(where, "'single' has no Sequence");
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    for (const auto& [key, out] : {std::pair{"cls", &before}, std::pair{"sep", &after}}) {
      const json& pair = member(processor, key);
      if (!pair.is_array() || pair.size() != 2)
        throw Error(where, std::string("'") + key + "' is not a token and its id");
      out->push_back(checked_id(pair[1], key, where));
    }
  } else if (type != "ByteLevel") {  // that one only moves offsets
    throw Error(where, "type " + quote(type) + " is not supported");
  }
  parts.prefix.insert(parts.prefix.begin(), before.begin(), before.end());
  parts.suffix.insert(parts.suffix.end(), after.begin(), after.end());
}

// A token of tokenizer_config.json or special_tokens_map.json: a string, or an object with its
// content.
std::optional<std::string> token_name(const json& config, const char* key,
                                      const std::string& where) {
  const json& value = config.is_object() ? member(config, key) : config;
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object()) return find_string(value, "content", where);
  return std::nullopt;
}

std::string find_template(const json& config, const std::string& where) {
  if (!config.is_object()) return {};
  const json& value = member(config, "chat_template");
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    for (const auto& item : value) {
      if (find_string(item, "name", where) == "default") return get_string(item, "template", where);
    }
  }
  return {};
}

struct Sources {
  std::string_view tokenizer;
  std::string_view config, special_tokens_map;  // may be empty
  std::optional<std::string> chat_template;     // chat_template.jinja, which wins
};

json parse_optional(std::string_view text, const std::string& where) {
  if (text.empty()) return nullptr;
  json parsed = parse_json(text, where);
  if (!parsed.is_object()) throw Error(where, "is not an object");
  return parsed;
}

std::unique_ptr<Tokenizer> load(const Sources& sources, const std::string& name,
                                const std::string& folder) {
  const json root = parse_json(sources.tokenizer, name);
  if (!root.is_object()) throw Error(name, "is not an object");
  PipelineParts parts;
  bool byte_level = false;
  parts.normalizer = Normalizer::from_json(member(root, "normalizer"), name + ": normalizer");
  parts.pre_tokenizer =
      PreTokenizer::from_json(member(root, "pre_tokenizer"), name + ": pre_tokenizer", byte_level);
  load_model(member(root, "model"), byte_level, name + ": model", parts);
  load_added_tokens(member(root, "added_tokens"), name + ": added_tokens", parts);
  load_post_processor(member(root, "post_processor"), name + ": post_processor", 0, parts);
  parts.decoder = Decoder::from_json(member(root, "decoder"), name + ": decoder");

  const std::string config_name = folder + "tokenizer_config.json",
                    map_name = folder + "special_tokens_map.json";
  const json config = parse_optional(sources.config, config_name);
  const json map = parse_optional(sources.special_tokens_map, map_name);
  parts.chat_template =
      sources.chat_template ? *sources.chat_template : find_template(config, config_name);
  const auto find = [&](const char* key) -> std::optional<int32_t> {
    auto token = token_name(config, key, config_name);
    if (!token) token = token_name(map, key, map_name);
    if (!token) return std::nullopt;
    for (const auto& added : parts.added) {
      if (added.content == *token) return added.id;
    }
    return parts.vocabulary->find(*token);
  };
  parts.bos = find("bos_token");
  parts.eos = find("eos_token");
  return std::make_unique<Pipeline>(std::move(parts));
}

// The bytes of a file; nothing if there is none.
std::optional<std::string> read_file(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code ec;
  if (!std::filesystem::exists(path, ec)) return std::nullopt;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw Error(path.string(), "cannot be opened");
  std::string bytes;
  char buffer[1 << 16];
  while (in.read(buffer, sizeof(buffer)) || in.gcount() > 0) {
    bytes.append(buffer, static_cast<size_t>(in.gcount()));
    if (bytes.size() > max_bytes)
      throw Error(path.string(), "is larger than " + std::to_string(max_bytes) + " bytes");
  }
  if (in.bad()) throw Error(path.string(), "cannot be read");
  return bytes;
}

}  // namespace

std::unique_ptr<Tokenizer> Tokenizer::from_folder(const std::string& folder) {
  const std::filesystem::path root(folder);
  const auto tokenizer = read_file(root / "tokenizer.json", kMaxFileBytes);
  if (!tokenizer) return nullptr;
  const std::string config = read_file(root / "tokenizer_config.json", kMaxFileBytes).value_or("");
  const std::string map = read_file(root / "special_tokens_map.json", kMaxFileBytes).value_or("");
  const Sources sources{*tokenizer, config, map,
                        read_file(root / "chat_template.jinja", kMaxTemplateBytes)};
  return load(sources, (root / "tokenizer.json").string(), (root / "").string());
}

std::unique_ptr<Tokenizer> Tokenizer::from_json(std::string_view tokenizer_json,
                                                std::string_view tokenizer_config_json,
                                                const std::string& name) {
  return load({tokenizer_json, tokenizer_config_json, "", std::nullopt}, name, name + ": ");
}

}  // namespace nanovllm
