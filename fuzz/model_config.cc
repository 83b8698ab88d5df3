// config.json and generation_config.json come with the checkpoint and are not trusted. Whatever the
// bytes, the parsers either throw Error or give a configuration whose numbers are safe to compute
// with: sizes positive, heads divisible, the rotary table finite.
#include "model/model_config.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "formats/json.h"
#include "nanovllm/error.h"

namespace {

constexpr std::string_view kBase =
    R"({"model_type": "qwen2", "hidden_size": 40, "num_hidden_layers": 3, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 10, "intermediate_size": 37, "vocab_size": 101, "sliding_window": 9,
        "max_position_embeddings": 512, "max_window_layers": 1, "use_sliding_window": true, "eos_token_id": [1, 2],
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0}})";

void require(bool holds) {
  if (!holds) std::abort();
}

void check_config(std::string_view text) {
  const nanovllm::ModelConfig c = nanovllm::parse_hf_config(text, "config.json");
  require(c.vocab_size > 0 && c.hidden_size > 0 && c.intermediate_size > 0 && c.num_layers > 0);
  require(c.num_heads > 0 && c.num_kv_heads > 0 && c.num_heads % c.num_kv_heads == 0);
  require(c.head_dim > 0 && c.head_dim % 2 == 0 && c.max_position_embeddings > 0);
  require(static_cast<int64_t>(c.sliding_window.size()) == c.num_layers);
  for (int64_t window : c.sliding_window) require(window >= 0);
  for (int32_t id : c.eos_token_ids) require(id >= 0);
  require(std::isfinite(c.rms_norm_eps) && c.rms_norm_eps > 0);
  if (c.head_dim > 256) return;
  constexpr int64_t kPositions = 3;
  std::vector<float> table(kPositions * c.head_dim);
  nanovllm::fill_rope_table(c.rope, c.head_dim, kPositions, nullptr, table.data());
  for (float value : table) require(std::isfinite(value));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    check_config(text);
  } catch (const nanovllm::Error&) {
  }
  try {  // the text's keys over a configuration that is complete
    nlohmann::json config = nanovllm::parse_json(kBase, "base");
    config.merge_patch(nanovllm::parse_json(text, "text"));
    if (config.is_object())
      check_config(config.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } catch (const nanovllm::Error&) {
  }
  try {
    nanovllm::parse_generation_config(text, "generation_config.json");
  } catch (const nanovllm::Error&) {
  }
  return 0;
}
