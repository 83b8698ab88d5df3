// The committed tokenizers against what Hugging Face's `tokenizers` gave
// (tools/make_tokenizer_fixtures.py).
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "nanovllm/error.h"
#include "tokenizer/unicode.h"

namespace nanovllm {
namespace {

using nlohmann::json;

json load_fixture(const std::string& name) {
  std::ifstream in(std::string(NANO_VLLM_SOURCE_DIR) + "/tests/data/tokenizer/" + name + ".json");
  return json::parse(in);
}

std::unique_ptr<Tokenizer> make(const json& tokenizer, const std::string& config = "") {
  return Tokenizer::from_json(tokenizer.dump(), config, "test.json");
}

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return bytes;
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  IncrementalDetokenizer stream(tokenizer, skip);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = stream.add(id);
    EXPECT_TRUE(is_valid_utf8(piece));  // never half a character
    text += piece;
  }
  return text + stream.finish();
}

class Fixture : public testing::TestWithParam<const char*> {};

TEST_P(Fixture, GivesHuggingFacesIdsAndText) {
  const json fixture = load_fixture(GetParam());
  const auto tokenizer = make(fixture["tokenizer"]);
  for (const auto& c : fixture["cases"]) {
    EXPECT_EQ(tokenizer->encode(from_hex(c["hex"]), true), c["ids"].get<std::vector<int32_t>>())
        << c["hex"];
  }
  for (const char* list : {"cases", "decode"}) {
    for (const auto& c : fixture[list]) {
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->decode(ids, false), c["text"].get<std::string>()) << c["ids"];
      EXPECT_EQ(tokenizer->decode(ids, true), c["skipped"].get<std::string>()) << c["ids"];
      EXPECT_EQ(streamed(*tokenizer, ids, false), c["text"].get<std::string>()) << c["ids"];
      EXPECT_EQ(streamed(*tokenizer, ids, true), c["skipped"].get<std::string>()) << c["ids"];
    }
  }
}

TEST_P(Fixture, StreamsAnyIdsToTheWholeDecode) {
  const json fixture = load_fixture(GetParam());
  const auto tokenizer = make(fixture["tokenizer"]);
  std::mt19937 rng(5);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids(rng() % 30);
    // Low ids are where the byte tokens live.
    for (auto& id : ids) id = static_cast<int32_t>(rng() % (rng() % 2 == 0 ? 270u : 700u));
    for (const bool skip : {false, true})
      ASSERT_EQ(streamed(*tokenizer, ids, skip), tokenizer->decode(ids, skip));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Fixture,
                         testing::Values("gpt2", "qwen2", "smollm", "llama2", "gemma"));

TEST(Tokenizer, AFinishedCharacterIsNotHeldBack) {
  const json fixture = load_fixture("gpt2");
  const auto tokenizer = make(fixture["tokenizer"]);
  const auto ids = tokenizer->encode(
      "\U0001F600x", false);  // a few tokens for the emoji's four bytes, and a letter
  const size_t last = ids.size() - 1;
  ASSERT_GE(last, 2u);
  IncrementalDetokenizer stream(*tokenizer, false);
  for (size_t i = 0; i + 1 < last; ++i) EXPECT_EQ(stream.add(ids[i]), "");
  EXPECT_EQ(stream.add(ids[last - 1]), "\U0001F600");
  EXPECT_EQ(stream.add(ids[last]), "x");
  EXPECT_EQ(stream.finish(), "");
}

TEST(Tokenizer, LongPiecesMergeLikeShortOnes) {
  // The scan of short pieces and the heap of long ones must agree: one word of every length around
  // the border.
  const json fixture = load_fixture("gpt2");
  const auto tokenizer = make(fixture["tokenizer"]);
  const std::string word = "thereturninselfthestationerandthinging";
  std::string text;
  for (size_t n = 1; n < 130; ++n) text += " " + (word + word + word + word).substr(0, n);
  const auto ids = tokenizer->encode(text, false);
  EXPECT_EQ(tokenizer->decode(ids, false), text);
  std::vector<int32_t> one_by_one;
  for (size_t n = 1; n < 130; ++n) {
    const auto part = tokenizer->encode(" " + (word + word + word + word).substr(0, n), false);
    one_by_one.insert(one_by_one.end(), part.begin(), part.end());
  }
  EXPECT_EQ(ids, one_by_one);
}

TEST(Tokenizer, TenMillionBytesInOnePieceFinish) {
  for (const char* family : {"gpt2", "llama2"}) {
    const json fixture = load_fixture(family);
    const auto tokenizer = make(fixture["tokenizer"]);
    EXPECT_GT(tokenizer->encode(std::string(2'000'000, 'e'), false).size(), 0u);
    std::mt19937 rng(3);
    std::string bytes(2'000'000, '\0');
    for (auto& b : bytes) b = static_cast<char>(rng());
    EXPECT_GT(tokenizer->encode(bytes, false).size(), 0u);
  }
}

TEST(Tokenizer, TakesTheSpecialTokensAndTheTemplateFromTheConfig) {
  const json fixture = load_fixture("gpt2");
  const auto tokenizer = make(
      fixture["tokenizer"], R"({"eos_token": {"content": "<|im_end|>"}, "bos_token": "<|im_start|>",
    "chat_template": [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]})");
  EXPECT_EQ(tokenizer->eos_token_id(), tokenizer->token_to_id("<|im_end|>"));
  EXPECT_EQ(tokenizer->bos_token_id(), tokenizer->token_to_id("<|im_start|>"));
  EXPECT_TRUE(tokenizer->is_special(*tokenizer->eos_token_id()));
  EXPECT_EQ(tokenizer->chat_template(), "yes");
  EXPECT_EQ(tokenizer->id_to_token(*tokenizer->bos_token_id()), "<|im_start|>");
  EXPECT_EQ(tokenizer->id_to_token(1 << 20), "");
  EXPECT_EQ(make(fixture["tokenizer"])->eos_token_id(), std::nullopt);
}

// What a damaged or foreign file must say.
void expect_refused(const json& tokenizer, const std::string& what) {
  try {
    make(tokenizer);
    ADD_FAILURE() << "accepted, expected: " << what;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    EXPECT_EQ(std::string(e.what()).rfind("test.json", 0), 0u) << e.what();
  }
}

TEST(Tokenizer, RefusesByName) {
  const json good = load_fixture("gpt2")["tokenizer"];
  const auto with = [&](const char* path, const json& value) {
    json changed = good;
    changed[json::json_pointer(path)] = value;
    return changed;
  };
  expect_refused(with("/model/type", "WordPiece"), "WordPiece");
  expect_refused(with("/model/dropout", 0.1), "dropout");
  expect_refused(with("/model/vocab/x", -1), "'x'");
  expect_refused(with("/model/vocab/x", 1e12), "'x'");
  expect_refused(with("/model/merges/0", "nosuch token"), "nosuch");
  expect_refused(with("/model/merges/0", "one"), "merge 0");
  expect_refused(with("/normalizer", {{"type", "Precompiled"}}), "Precompiled");
  expect_refused(with("/pre_tokenizer", {{"type", "UnicodeScripts"}}), "UnicodeScripts");
  expect_refused(with("/decoder", {{"type", "CTC"}}), "CTC");
  expect_refused(with("/post_processor", {{"type", "Other"}}), "Other");
  expect_refused(with("/added_tokens/0/id", "seven"), "is not a whole number");
  EXPECT_THROW(Tokenizer::from_json("{", "", "test.json"), Error);
  EXPECT_THROW(Tokenizer::from_json("[]", "", "test.json"), Error);
}

}  // namespace
}  // namespace nanovllm
