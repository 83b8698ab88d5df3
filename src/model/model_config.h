// ModelConfig: what a decoder is, as data. Read from config.json (both generations: rope_theta + rope_scaling at the top, or
// nested in rope_parameters) or from GGUF metadata. What the engine cannot do is refused by name, never ignored.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nanovllm/sampling_params.h"

namespace nanovllm {

class GgufFile;

// Rotary position embedding (https://arxiv.org/abs/2104.09864) and its context extensions.
struct RopeConfig {
  enum class Scaling { kDefault, kLinear, kLlama3, kYarn };
  Scaling scaling = Scaling::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double original_max_position_embeddings = 0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;                   // llama3
  double beta_fast = 32.0, beta_slow = 1.0;                               // yarn
  double attention_factor = 0, mscale = 0, mscale_all_dim = 0;            // yarn; 0: not given
  bool truncate = true;                                                   // yarn
  bool interleaved = false;  // pairs (2i, 2i+1), as the rows of GGUF llama files are permuted for
  bool freq_factors = false;  // a tensor of divisors, one a pair, comes with the weights (GGUF rope_freqs)
};

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

// The table rope_and_store_kv reads: [max_positions, head_dim], cos of head_dim/2 pairs and then sin. Computed in float32 as
// transformers' modeling_rope_utils.py does. freq_factors: head_dim/2 divisors or null.
void fill_rope_table(const RopeConfig& rope, int64_t head_dim, int64_t max_positions, const float* freq_factors,
                     float* table);

}  // namespace nanovllm
