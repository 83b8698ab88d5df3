// Rotary position embeddings and their context extensions, as the table of cosines and sines that
// the backends read.
#pragma once

#include <cstdint>

namespace nanovllm {

// Rotary position embedding (https://arxiv.org/abs/2104.09864) and its context extensions.
struct RopeConfig {
  enum class Scaling { kDefault, kLinear, kLlama3, kYarn };
  Scaling scaling = Scaling::kDefault;
  double theta = 10000.0;
  double factor = 1.0;
  double original_max_position_embeddings = 0;
  double low_freq_factor = 1.0, high_freq_factor = 4.0;         // llama3
  double beta_fast = 32.0, beta_slow = 1.0;                     // yarn
  double attention_factor = 0, mscale = 0, mscale_all_dim = 0;  // yarn; 0: not given
  bool truncate = true;                                         // yarn
  bool interleaved = false;  // pairs (2i, 2i+1), as the rows of GGUF llama files are permuted for
  bool freq_factors =
      false;  // a tensor of divisors, one a pair, comes with the weights (GGUF rope_freqs)
};

// The table rope_and_store_kv reads: [max_positions, head_dim], cos of head_dim/2 pairs and then
// sin. Computed in float32 as transformers' modeling_rope_utils.py does. freq_factors: head_dim/2
// divisors or null.
void fill_rope_table(const RopeConfig& rope, int64_t head_dim, int64_t max_positions,
                     const float* freq_factors, float* table);

}  // namespace nanovllm
