// ModelConfig: what a decoder is, as data. Read from config.json (both generations: rope_theta +
// rope_scaling at the top, or nested in rope_parameters) or from GGUF metadata. What the engine
// cannot do is refused by name, never ignored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/rope.h"
#include "nanovllm/sampling_params.h"

namespace nanovllm {

class GgufFile;

// Bounds that keep every product of two sizes inside int64 and every index inside int32.
constexpr int64_t kMaxModelSize = 1 << 24;

struct ModelConfig {
  std::string architecture;  // llama | mistral | qwen2 | qwen3
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0, num_layers = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_position_embeddings = 0;  // longest sequence, context extension included
  float rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false;
  std::vector<int64_t> sliding_window;  // [num_layers]; 0: full attention
  RopeConfig rope;
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
};

// json: the text of config.json; name: for messages. Throws Error(name, "key 'k' ...").
ModelConfig parse_hf_config(std::string_view json, const std::string& name);
ModelConfig parse_gguf_config(const GgufFile& file);

// generation_config.json: defaults for sampling, and the EOS ids it lists (empty if none).
struct GenerationConfig {
  GenerationDefaults defaults;
  std::vector<int32_t> eos_token_ids;
};
GenerationConfig parse_generation_config(std::string_view json, const std::string& name);

}  // namespace nanovllm
