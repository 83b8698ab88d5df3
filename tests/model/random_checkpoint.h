// A random checkpoint of a given shape, written as Hugging Face's folder: for what the tiny ones
// under tests/data are too small or too odd to test.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "formats/quantization.h"

namespace nanovllm {

struct RandomCheckpointShape {
  std::string architecture = "LlamaForCausalLM",
              model_type = "llama";  // or Qwen3: with norms of q and k
  int64_t hidden = 64, intermediate = 96, layers = 2, heads = 4, kv_heads = 2, head_dim = 64,
          vocab = 120;
};

// The folder lives as long as this.
class RandomCheckpoint {
 public:
  RandomCheckpoint(const RandomCheckpointShape& s, uint32_t seed)
      : folder_(std::filesystem::temp_directory_path() /
                ("nano-vllm-random-" + std::to_string(getpid()) + "-" + std::to_string(seed))),
        random_(seed) {
    std::filesystem::create_directories(folder_);
    const nlohmann::json config = {{"architectures", {s.architecture}},
                                   {"model_type", s.model_type},
                                   {"hidden_size", s.hidden},
                                   {"intermediate_size", s.intermediate},
                                   {"num_hidden_layers", s.layers},
                                   {"num_attention_heads", s.heads},
                                   {"num_key_value_heads", s.kv_heads},
                                   {"head_dim", s.head_dim},
                                   {"vocab_size", s.vocab},
                                   {"max_position_embeddings", 512},
                                   {"rms_norm_eps", 1e-5},
                                   {"rope_theta", 10000.0},
                                   {"hidden_act", "silu"},
                                   {"tie_word_embeddings", true},
                                   {"torch_dtype", "bfloat16"}};
    std::ofstream(folder_ / "config.json") << config;

    // Larger than a model is initialized with, so that attention shows in the logits.
    add("model.embed_tokens.weight", {s.vocab, s.hidden}, 0.25);
    for (int64_t i = 0; i < s.layers; ++i) {
      const std::string p = "model.layers." + std::to_string(i) + ".";
      add(p + "self_attn.q_proj.weight", {s.heads * s.head_dim, s.hidden}, 0.2);
      add(p + "self_attn.k_proj.weight", {s.kv_heads * s.head_dim, s.hidden}, 0.2);
      add(p + "self_attn.v_proj.weight", {s.kv_heads * s.head_dim, s.hidden}, 0.2);
      add(p + "self_attn.o_proj.weight", {s.hidden, s.heads * s.head_dim}, 0.1);
      add(p + "mlp.gate_proj.weight", {s.intermediate, s.hidden}, 0.15);
      add(p + "mlp.up_proj.weight", {s.intermediate, s.hidden}, 0.15);
      add(p + "mlp.down_proj.weight", {s.hidden, s.intermediate}, 0.15);
      add(p + "input_layernorm.weight", {s.hidden}, 0.1, 1);
      add(p + "post_attention_layernorm.weight", {s.hidden}, 0.1, 1);
      if (s.model_type != "qwen3") continue;
      add(p + "self_attn.q_norm.weight", {s.head_dim}, 0.1, 1);
      add(p + "self_attn.k_norm.weight", {s.head_dim}, 0.1, 1);
    }
    add("model.norm.weight", {s.hidden}, 0.1, 1);
    const std::string header = header_.dump();
    const auto size = static_cast<uint64_t>(header.size());
    std::ofstream file(folder_ / "model.safetensors", std::ios::binary);
    file.write(reinterpret_cast<const char*>(&size), 8);
    file << header;
    file.write(reinterpret_cast<const char*>(data_.data()),
               static_cast<std::streamsize>(data_.size() * 2));
  }
  ~RandomCheckpoint() { std::filesystem::remove_all(folder_); }
  RandomCheckpoint(const RandomCheckpoint&) = delete;
  RandomCheckpoint& operator=(const RandomCheckpoint&) = delete;

  std::string folder() const { return folder_.string(); }

 private:
  void add(const std::string& name, const std::vector<int64_t>& shape, float spread,
           float mean = 0) {
    int64_t n = 1;
    for (const int64_t d : shape) n *= d;
    const size_t begin = data_.size() * 2;
    std::normal_distribution<float> normal(mean, spread);
    for (int64_t i = 0; i < n; ++i) data_.push_back(float_to_bfloat16(normal(random_)));
    header_[name] = {
        {"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {begin, data_.size() * 2}}};
  }

  std::filesystem::path folder_;
  std::mt19937 random_;
  nlohmann::json header_ = nlohmann::json::object();
  std::vector<uint16_t> data_;
};

}  // namespace nanovllm
