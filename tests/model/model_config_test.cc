// Configurations: both generations mean the same, defaults are those of transformers' classes, and
// what the engine does not do is refused by name.

#include "model/model_config.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using Json = nlohmann::json;

Json base(const std::string& type = "llama") {
  return {{"model_type", type},
          {"vocab_size", 100},
          {"hidden_size", 48},
          {"intermediate_size", 80},
          {"num_hidden_layers", 4},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"head_dim", 8},
          {"max_position_embeddings", 512},
          {"rms_norm_eps", 1e-5},
          {"tie_word_embeddings", true}};
}

ModelConfig parse(const Json& j) { return parse_hf_config(j.dump(), "config.json"); }

std::string error_of(const Json& j) {
  try {
    parse(j);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

TEST(ModelConfig, BothGenerationsMeanTheSame) {
  Json older = base(), newer = base();
  older["rope_theta"] = 50000.0;
  older["rope_scaling"] = {{"type", "llama3"},
                           {"factor", 8.0},
                           {"low_freq_factor", 1.0},
                           {"high_freq_factor", 4.0},
                           {"original_max_position_embeddings", 128}};
  older["torch_dtype"] = "bfloat16";
  newer["rope_parameters"] = {{"rope_theta", 50000.0},   {"rope_type", "llama3"},
                              {"factor", 8.0},           {"low_freq_factor", 1.0},
                              {"high_freq_factor", 4.0}, {"original_max_position_embeddings", 128}};
  newer["dtype"] = "bfloat16";
  const RopeConfig a = parse(older).rope, b = parse(newer).rope;
  EXPECT_EQ(a.scaling, RopeConfig::Scaling::kLlama3);
  std::vector<float> x(64 * 8), y(64 * 8), plain(64 * 8);
  fill_rope_table(a, 8, 64, nullptr, x.data());
  fill_rope_table(b, 8, 64, nullptr, y.data());
  fill_rope_table({.theta = 50000.0}, 8, 64, nullptr, plain.data());
  EXPECT_EQ(x, y);
  EXPECT_NE(x, plain);
  // Nested once a layer type, as long as they agree.
  newer["rope_parameters"] = {{"full_attention", newer["rope_parameters"]},
                              {"sliding_attention", newer["rope_parameters"]}};
  EXPECT_EQ(parse(newer).rope.scaling, RopeConfig::Scaling::kLlama3);
  newer["rope_parameters"]["full_attention"]["factor"] = 2.0;
  EXPECT_NE(error_of(newer).find("rope_parameters"), std::string::npos);
}

TEST(ModelConfig, MissingKeysMeanWhatTransformersMakesOfThem) {
  Json j = base("qwen3");
  j.erase("head_dim");
  EXPECT_EQ(parse(j).head_dim, 128);
  j["head_dim"] = nullptr;
  EXPECT_EQ(parse(j).head_dim, 8);
  j = base();
  j.erase("num_key_value_heads");
  EXPECT_EQ(parse(j).num_kv_heads, 6);
  j.erase("head_dim");
  EXPECT_EQ(parse(j).head_dim, 8);
  j = base("mistral");
  EXPECT_EQ(parse(j).sliding_window, std::vector<int64_t>(4, 4096));
  j["sliding_window"] = nullptr;
  EXPECT_EQ(parse(j).sliding_window, std::vector<int64_t>(4, 0));
  j = base("qwen2");
  EXPECT_TRUE(parse(j).qkv_bias);
  EXPECT_FALSE(parse(j).o_bias);
  EXPECT_EQ(parse(j).sliding_window, std::vector<int64_t>(4, 0));
  j["use_sliding_window"] = true, j["sliding_window"] = 16, j["max_window_layers"] = 3;
  EXPECT_EQ(parse(j).sliding_window, (std::vector<int64_t>{0, 0, 0, 16}));
  j["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(parse(j).sliding_window, (std::vector<int64_t>{16, 0, 0, 0}));
}

TEST(ModelConfig, EosMayBeOneOrSeveral) {
  Json j = base();
  j["eos_token_id"] = 5;
  EXPECT_EQ(parse(j).eos_token_ids, std::vector<int32_t>{5});
  j["eos_token_id"] = {5, 7};
  EXPECT_EQ(parse(j).eos_token_ids, (std::vector<int32_t>{5, 7}));
  const auto g =
      parse_generation_config(R"({"eos_token_id": [1, 2], "temperature": 0.6, "top_k": 20})", "g");
  EXPECT_EQ(g.eos_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(g.defaults.temperature, 0.6);
  EXPECT_EQ(g.defaults.top_k, 20);
  EXPECT_FALSE(g.defaults.top_p.has_value());
}

TEST(ModelConfig, UnsupportedIsRefusedByName) {
  const std::pair<const char*, Json> cases[] = {
      {"hidden_act", "gelu"},
      {"model_type", "mamba"},
      {"quantization_config", {{"quant_method", "awq"}}},
      {"num_local_experts", 8},
      {"final_logit_softcapping", 30.0},
      {"rope_scaling", {{"rope_type", "longrope"}, {"factor", 2.0}}},
      {"partial_rotary_factor", 0.5},
      {"layer_types", {"linear_attention", "full_attention", "full_attention", "full_attention"}},
      {"sliding_window", 128},  // on a llama
      {"clip_qkv", 8.0},
      {"attention_chunk_size", 128},
      {"embedding_multiplier", 12.0},
      {"is_encoder_decoder", true},
  };
  for (const auto& [key, value] : cases) {
    Json j = base();
    j[key] = value;
    const std::string message = error_of(j);
    EXPECT_EQ(message.find("config.json"), 0u) << message;
    EXPECT_NE(message.find(key == std::string("rope_scaling") ? "longrope" : key),
              std::string::npos)
        << message;
  }
}

TEST(ModelConfig, WrongValuesAreNamed) {
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, Json>>{{"vocab_size", "100"},
                                                 {"vocab_size", 0},
                                                 {"hidden_size", -5},
                                                 {"num_hidden_layers", 1e9},
                                                 {"num_hidden_layers", 18446744073709551615u},
                                                 {"num_key_value_heads", 4},
                                                 {"head_dim", 7},
                                                 {"rms_norm_eps", 0},
                                                 {"rms_norm_eps", "x"},
                                                 {"tie_word_embeddings", 1},
                                                 {"rope_theta", -1.0},
                                                 {"eos_token_id", "x"},
                                                 {"layer_types", 3},
                                                 {"rope_scaling", "linear"}}) {
    Json j = base();
    j[key] = value;
    EXPECT_NE(error_of(j).find(key), std::string::npos) << key << ": " << error_of(j);
  }
  for (const char* key :
       {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "model_type"}) {
    Json j = base();
    j.erase(key);
    EXPECT_NE(error_of(j).find(key), std::string::npos);
  }
  EXPECT_THROW(parse_hf_config("", "c"), Error);
  EXPECT_THROW(parse_hf_config("[]", "c"), Error);
  EXPECT_THROW(parse_hf_config("{", "c"), Error);
}

TEST(Rope, FrequenciesFallByTheta) {
  std::vector<float> table(3 * 4);
  fill_rope_table({.theta = 100.0}, 4, 3, nullptr, table.data());
  for (int p = 0; p < 3; ++p) {
    EXPECT_FLOAT_EQ(table[p * 4 + 0], std::cos(static_cast<float>(p)));
    EXPECT_FLOAT_EQ(table[p * 4 + 1], std::cos(p * 0.1f));
    EXPECT_FLOAT_EQ(table[p * 4 + 2], std::sin(static_cast<float>(p)));
    EXPECT_FLOAT_EQ(table[p * 4 + 3], std::sin(p * 0.1f));
  }
}

}  // namespace
}  // namespace nanovllm
