#include "tokenizer/gguf_pre_tokenizers.h"

#include <string>
#include <vector>

namespace nanovllm {

namespace {

using nlohmann::json;

// The endings that English contracts, and the tails that the patterns of the GPT-4 family share.
constexpr char kContractions[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
constexpr char kSpaceTail[] = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

std::string words_and_numbers(const std::string& contractions, const std::string& numbers) {
  return contractions + "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" + numbers +
         "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" + kSpaceTail;
}

std::string cased_words(const std::string& contractions, const std::string& numbers) {
  return "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
         "+" +
         contractions +
         "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
         "*" +
         contractions + "|" + numbers + "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" + kSpaceTail;
}

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}
json split(const std::string& regex) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", regex}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}
json digits(bool individual) { return {{"type", "Digits"}, {"individual_digits", individual}}; }
json sequence(json stages) { return {{"type", "Sequence"}, {"pretokenizers", std::move(stages)}}; }

json splits(const std::vector<std::string>& patterns) {
  json stages = json::array();
  for (const auto& pattern : patterns) stages.push_back(split(pattern));
  stages.push_back(byte_level(false));
  return sequence(std::move(stages));
}

json nfc_normalizer() { return {{"type", "NFC"}}; }

json falcon() {
  return sequence(json::array({json{{"type", "Punctuation"}, {"behavior", "Contiguous"}},
                               byte_level(true), digits(false), split("[0-9][0-9][0-9]")}));
}

// The letters of bicameral scripts, then punctuation of the Latin and the full-width kind.
json deepseek_llm() {
  return splits(
      {"[\r\n]",
       "\\s?[A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}\\x{1c4}-"
       "\\x{293}"
       "\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}"
       "-\\x{38a}"
       "\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{"
       "556}"
       "\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{"
       "1cbf}"
       "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{"
       "1f1d}"
       "\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{"
       "1f5f}"
       "-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{"
       "1fcc}"
       "\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{"
       "1ffc}"
       "\\x{2102}\\x{2107}\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{"
       "2128}"
       "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{"
       "214e}"
       "\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{"
       "2cf3}"
       "\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{"
       "a78e}"
       "\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{"
       "ff5a}"
       "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{"
       "10cc0}"
       "-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}]+",
       "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
       "\\s+$", "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}+"});
}

json deepseek_coder() {
  return splits({"[\r\n]", "\\s?\\p{L}+", "\\s?\\p{P}+",
                 "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+", "\\p{N}"});
}

json deepseek_v3() {
  return splits({"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
                 "[!\"#$%&'()*+,\\-./"
                 ":;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
                 "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"});
}

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  for (const auto& other : names) {
    if (name == other) return true;
  }
  return false;
}

}  // namespace

std::optional<NamedPreTokenizer> find_pre_tokenizer(std::string_view name) {
  const std::string contractions = kContractions, optional = contractions + "?",
                    first = contractions + "|";
  if (one_of(name, {"", "default", "gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es",
                    "jina-v2-de", "jina-v1-en", "jina-v2-code", "roberta-bpe", "mellum", "jais",
                    "trillion", "granite-docling"})) {
    return NamedPreTokenizer{nullptr, byte_level(true)};
  }
  if (one_of(name, {"mpt", "olmo", "modern-bert"}))
    return NamedPreTokenizer{nfc_normalizer(), byte_level(true)};  // GPT-NeoX
  if (one_of(name, {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral",
                    "midm-2.0", "lfm2"})) {
    return NamedPreTokenizer{nullptr, splits({words_and_numbers(first, "\\p{N}{1,3}")}), true,
                             true};
  }
  if (one_of(name, {"dbrx", "smaug-bpe"})) {
    return NamedPreTokenizer{nullptr, splits({words_and_numbers(first, "\\p{N}{1,3}")})};
  }
  if (one_of(name, {"chatglm-bpe", "glm4", "glm5"})) {
    return NamedPreTokenizer{nullptr, splits({words_and_numbers(first, "\\p{N}{1,3}")}),
                             name != "chatglm-bpe"};
  }
  if (one_of(name, {"qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "megrez", "hunyuan",
                    "grok-2", "solar-open"})) {
    const bool nfc = one_of(name, {"qwen2", "deepseek-r1-qwen", "kormo", "stablelm2"});
    return NamedPreTokenizer{nfc ? nfc_normalizer() : json(),
                             splits({words_and_numbers(first, "\\p{N}")})};
  }
  if (name == "qwen35") {
    return NamedPreTokenizer{nullptr, splits({first +
                                              "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| "
                                              "?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" +
                                              kSpaceTail})};
  }
  if (one_of(name, {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone",
                    "minerva-7b", "mellum2"})) {
    return NamedPreTokenizer{name == "command-r" ? nfc_normalizer() : json(),
                             sequence(json::array({digits(true), byte_level(true)}))};
  }
  if (one_of(name, {"gpt-4o", "llama4", "kanana2", "minimax-m2"})) {
    return NamedPreTokenizer{nullptr, splits({cased_words(optional, "\\p{N}{1,3}")})};
  }
  if (name == "tekken")
    return NamedPreTokenizer{nullptr, splits({cased_words("", "\\p{N}")}), true, true};
  if (name == "falcon") return NamedPreTokenizer{nullptr, falcon()};
  if (name == "deepseek-llm") return NamedPreTokenizer{nullptr, deepseek_llm()};
  if (name == "deepseek-coder") return NamedPreTokenizer{nullptr, deepseek_coder()};
  if (one_of(name, {"deepseek-v3", "hunyuan-dense", "joyai-llm"}))
    return NamedPreTokenizer{nullptr, deepseek_v3()};
  if (name == "seed-coder") {
    return NamedPreTokenizer{
        nullptr,
        splits({first + "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\\r\\n]+" +
                kSpaceTail})};
  }
  if (one_of(name, {"bailingmoe", "bailingmoe2", "llada-moe"})) {
    return NamedPreTokenizer{
        nullptr, splits({"'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}| "
                         "?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"})};
  }
  return std::nullopt;
}

}  // namespace nanovllm
