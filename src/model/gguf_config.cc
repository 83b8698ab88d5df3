// ModelConfig from GGUF metadata.

#include <algorithm>
#include <cmath>
#include <optional>

#include "formats/gguf.h"
#include "model/config_reader.h"
#include "model/model_config.h"
#include "nanovllm/error.h"

namespace nanovllm {

ModelConfig parse_gguf_config(const GgufFile& file) {
  ModelConfig c;
  const std::string& name = file.path();
  const auto architecture = file.get_string("general.architecture");
  if (!architecture) throw Error(name, "key 'general.architecture' is missing");
  c.architecture = std::string(*architecture);
  if (c.architecture != "llama" && c.architecture != "qwen2" && c.architecture != "qwen3")
    throw Error(name, "key 'general.architecture' is \"" + c.architecture +
                          "\"; supported are llama, qwen2 and qwen3");
  const std::string prefix = c.architecture + ".";
  auto integer = [&](const std::string& key, std::optional<int64_t> fallback, int64_t high) {
    const auto v = file.get_int(prefix + key);
    if (!v && !fallback) throw Error(name, "key '" + prefix + key + "' is missing");
    const int64_t value = v.value_or(fallback.value_or(0));
    if (value < 1 || value > high)
      throw Error(name, "key '" + prefix + key + "' is " + std::to_string(value) +
                            ", allowed is 1 to " + std::to_string(high));
    return value;
  };
  auto refuse = [&](const char* key) {
    if (file.get_int(prefix + key).value_or(0) != 0)
      throw Error(name, "key '" + prefix + key + "' is set, which is not supported");
  };
  refuse("expert_count");
  refuse("attention.sliding_window");
  for (const char* key : {"embedding_scale", "residual_scale", "attention.scale", "logit_scale",
                          "attn_logit_softcapping", "final_logit_softcapping"})
    if (file.get_double(prefix + key).value_or(0) != 0)
      throw Error(name, "key '" + prefix + key + "' is set, which is not supported");

  c.num_layers = integer("block_count", {}, 4096);
  c.hidden_size = integer("embedding_length", {}, kMaxModelSize);
  c.intermediate_size = integer("feed_forward_length", {}, kMaxModelSize);
  c.num_heads = integer("attention.head_count", {}, 65536);
  c.num_kv_heads = integer("attention.head_count_kv", c.num_heads, 65536);
  if (c.num_heads % c.num_kv_heads != 0)
    throw Error(name,
                "key '" + prefix + "attention.head_count_kv' does not divide the number of heads");
  c.head_dim =
      integer("attention.key_length", std::max<int64_t>(1, c.hidden_size / c.num_heads), 65536);
  if (integer("attention.value_length", c.head_dim, 65536) != c.head_dim)
    throw Error(name,
                "key '" + prefix +
                    "attention.value_length' differs from key_length, which is not supported");
  if (integer("rope.dimension_count", c.head_dim, 65536) != c.head_dim)
    throw Error(name,
                "key '" + prefix +
                    "rope.dimension_count' differs from the head size, which is not supported");
  if (c.head_dim % 2 != 0)
    throw Error(name, "the head size is odd; rotary embeddings need an even number");
  c.max_position_embeddings = integer("context_length", {}, int64_t{1} << 28);
  auto number = [&](const std::string& key, double fallback, double low, double high) {
    const double value = file.get_double(prefix + key).value_or(fallback);
    if (!(value >= low && value <= high))
      throw Error(name, "key '" + prefix + key + "' is " + Json(value).dump() + ", allowed is " +
                            Json(low).dump() + " to " + Json(high).dump());
    return value;
  };
  c.rms_norm_eps =
      static_cast<float>(number("attention.layer_norm_rms_epsilon", 1e-5, 1e-20, 1e15));
  c.qk_norm = c.architecture == "qwen3";
  c.qkv_bias = c.architecture == "qwen2" || file.tensors().count("blk.0.attn_q.bias") != 0;
  c.o_bias = file.tensors().count("blk.0.attn_output.bias") != 0;
  c.mlp_bias = file.tensors().count("blk.0.ffn_gate.bias") != 0;
  c.tie_word_embeddings = file.tensors().count("output.weight") == 0;

  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end() || embedding->second.shape.size() != 2)
    throw Error(name, "tensor 'token_embd.weight' is missing or not a matrix");
  c.vocab_size = embedding->second.shape[0];
  if (c.vocab_size < 1 || c.vocab_size > kMaxModelSize)
    throw Error(name, "tensor 'token_embd.weight' has an absurd number of rows");

  RopeConfig& rope = c.rope;
  rope.interleaved = c.architecture == "llama";
  rope.theta = number("rope.freq_base", 10000.0, 1.001, 1e15);
  rope.freq_factors = file.tensors().count("rope_freqs.weight") != 0;
  const std::string scaling(file.get_string(prefix + "rope.scaling.type").value_or("none"));
  rope.factor = number("rope.scaling.factor", 1.0, 1e-3, 1e6);
  rope.original_max_position_embeddings =
      static_cast<double>(file.get_int(prefix + "rope.scaling.original_context_length")
                              .value_or(c.max_position_embeddings));
  if (scaling == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
  } else if (scaling == "yarn") {
    rope.scaling = RopeConfig::Scaling::kYarn;
    rope.beta_fast = number("rope.scaling.yarn_beta_fast", 32.0, 1e-20, 1e15);
    rope.beta_slow = number("rope.scaling.yarn_beta_slow", 1.0, 1e-20, 1e15);
    // Here a factor on top of yarn's own 0.1 ln(factor) + 1, where transformers' attention_factor
    // replaces it.
    rope.attention_factor = number("rope.scaling.attn_factor", 1.0, 1e-6, 1e6) *
                            (rope.factor <= 1 ? 1.0 : 0.1 * std::log(rope.factor) + 1.0);
  } else if (scaling != "none" && !scaling.empty()) {
    throw Error(name, "key '" + prefix + "rope.scaling.type' is \"" + scaling +
                          "\"; supported are none, linear and yarn");
  }
  c.sliding_window.assign(c.num_layers, 0);
  auto token = [&](const char* key) {
    const auto v = file.get_int(key);
    return v && *v >= 0 && *v < c.vocab_size ? static_cast<int32_t>(*v) : -1;
  };
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"})
    if (const int32_t id = token(key);
        id >= 0 &&
        std::find(c.eos_token_ids.begin(), c.eos_token_ids.end(), id) == c.eos_token_ids.end())
      c.eos_token_ids.push_back(id);
  c.bos_token_id = token("tokenizer.ggml.bos_token_id");
  return c;
}

}  // namespace nanovllm
