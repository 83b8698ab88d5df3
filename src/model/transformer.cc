#include "model/transformer.h"

#include <cmath>

#include "formats/quantization.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::string layer_prefix(int64_t i) { return "model.layers." + std::to_string(i) + "."; }

// The matrices of one layer, as stacks of [out, in] tensors.
struct LayerMatrices {
  std::vector<TensorView> qkv, o, gate_up, down;
};
LayerMatrices layer_matrices(Checkpoint& checkpoint, int64_t i) {
  const ModelConfig& c = checkpoint.config();
  const std::string p = layer_prefix(i);
  auto get = [&](const char* name, int64_t out, int64_t in) {
    return checkpoint.get(p + name, {out, in});
  };
  return {{get("self_attn.q_proj.weight", c.q_size(), c.hidden_size),
           get("self_attn.k_proj.weight", c.kv_size(), c.hidden_size),
           get("self_attn.v_proj.weight", c.kv_size(), c.hidden_size)},
          {get("self_attn.o_proj.weight", c.hidden_size, c.q_size())},
          {get("mlp.gate_proj.weight", c.intermediate_size, c.hidden_size),
           get("mlp.up_proj.weight", c.intermediate_size, c.hidden_size)},
          {get("mlp.down_proj.weight", c.hidden_size, c.intermediate_size)}};
}

// Four bits are too few for the head, whose errors no later layer evens out, and for the embedding
// it is often tied to.
WeightType table_type(WeightType type) {
  return type == WeightType::kInt4 ? WeightType::kInt8 : type;
}

}  // namespace

// Concatenates vectors (norm weights, biases) of the checkpoint into backend memory.
float* Transformer::load_vector(Checkpoint& checkpoint, const std::vector<std::string>& names,
                                const std::vector<int64_t>& sizes) {
  int64_t total = 0;
  for (int64_t n : sizes) total += n;
  std::vector<float> values(total);
  int64_t at = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    const TensorView view = checkpoint.get(names[i], {sizes[i]});
    dequantize_row(view.dtype, view.data.data(), values.data() + at, sizes[i]);
    at += sizes[i];
  }
  float* out = backend_.allocate(total);
  backend_.upload(values, out);
  weight_bytes_ += total * static_cast<int64_t>(sizeof(float));
  num_parameters_ += total;
  return out;
}

Transformer::Transformer(Checkpoint& checkpoint, Backend& backend, WeightType type,
                         int64_t max_tokens, int64_t max_positions)
    : config_(checkpoint.config()), backend_(backend) {
  const ModelConfig& c = config_;
  auto pack = [&](const std::vector<TensorView>& parts, WeightType as) {
    auto weight = backend_.pack(parts, as);
    weight_bytes_ += weight->bytes;
    num_parameters_ += weight->out_features * weight->in_features;
    for (const TensorView& part : parts) checkpoint.release(part);
    return weight;
  };
  const std::vector<int64_t> table_shape = {c.vocab_size, c.hidden_size};
  embed_tokens_ =
      pack({checkpoint.get("model.embed_tokens.weight", table_shape)}, table_type(type));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string p = layer_prefix(i), attn = p + "self_attn.", mlp = p + "mlp.";
    Layer& layer = layers_.emplace_back();
    const LayerMatrices m = layer_matrices(checkpoint, i);
    layer.qkv_proj = pack(m.qkv, type);
    layer.o_proj = pack(m.o, type);
    layer.gate_up_proj = pack(m.gate_up, type);
    layer.down_proj = pack(m.down, type);
    layer.input_norm = load_vector(checkpoint, {p + "input_layernorm.weight"}, {c.hidden_size});
    layer.post_attention_norm =
        load_vector(checkpoint, {p + "post_attention_layernorm.weight"}, {c.hidden_size});
    if (c.qk_norm) {
      layer.q_norm = load_vector(checkpoint, {attn + "q_norm.weight"}, {c.head_dim});
      layer.k_norm = load_vector(checkpoint, {attn + "k_norm.weight"}, {c.head_dim});
    }
    if (c.qkv_bias)
      layer.qkv_bias = load_vector(
          checkpoint, {attn + "q_proj.bias", attn + "k_proj.bias", attn + "v_proj.bias"},
          {c.q_size(), c.kv_size(), c.kv_size()});
    if (c.o_bias) layer.o_bias = load_vector(checkpoint, {attn + "o_proj.bias"}, {c.hidden_size});
    if (c.mlp_bias) {
      layer.gate_up_bias = load_vector(checkpoint, {mlp + "gate_proj.bias", mlp + "up_proj.bias"},
                                       {c.intermediate_size, c.intermediate_size});
      layer.down_bias = load_vector(checkpoint, {mlp + "down_proj.bias"}, {c.hidden_size});
    }
  }
  norm_ = load_vector(checkpoint, {"model.norm.weight"}, {c.hidden_size});
  if (!c.tie_word_embeddings)
    lm_head_ = pack({checkpoint.get("lm_head.weight", table_shape)}, table_type(type));

  std::vector<float> factors;
  if (c.rope.freq_factors) {
    const TensorView view = checkpoint.get("rope_freqs.weight", {c.head_dim / 2});
    factors.resize(c.head_dim / 2);
    dequantize_row(view.dtype, view.data.data(), factors.data(), c.head_dim / 2);
  }
  checkpoint.refuse_unused();
  std::vector<float> rope_table(max_positions * c.head_dim);
  fill_rope_table(c.rope, c.head_dim, max_positions, factors.empty() ? nullptr : factors.data(),
                  rope_table.data());
  rope_table_ = backend_.allocate(std::ssize(rope_table));
  backend_.upload(rope_table, rope_table_);

  residual_ = backend_.allocate(max_tokens * c.hidden_size);
  hidden_ = backend_.allocate(max_tokens * c.hidden_size);
  qkv_ = backend_.allocate(max_tokens * (c.q_size() + 2 * c.kv_size()));
  attention_ = backend_.allocate(max_tokens * c.q_size());
  gate_up_ = backend_.allocate(max_tokens * 2 * c.intermediate_size);
  activated_ = backend_.allocate(max_tokens * c.intermediate_size);
}

int64_t Transformer::planned_activation_floats(const ModelConfig& c, int64_t max_tokens,
                                               int64_t max_positions) {
  return max_positions * c.head_dim + max_tokens * (2 * c.hidden_size + 2 * c.q_size() +
                                                    2 * c.kv_size() + 3 * c.intermediate_size);
}

int64_t Transformer::planned_weight_bytes(Checkpoint& checkpoint, const Backend& backend,
                                          WeightType type) {
  const ModelConfig& c = checkpoint.config();
  const std::vector<int64_t> table_shape = {c.vocab_size, c.hidden_size};
  const TensorView table = checkpoint.get("model.embed_tokens.weight", table_shape);
  int64_t bytes = backend.packed_bytes({&table, 1}, table_type(type));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const LayerMatrices m = layer_matrices(checkpoint, i);
    for (const auto* parts : {&m.qkv, &m.o, &m.gate_up, &m.down})
      bytes += backend.packed_bytes(*parts, type);
    int64_t floats = 2 * c.hidden_size;
    if (c.qk_norm) floats += 2 * c.head_dim;
    if (c.qkv_bias) floats += c.q_size() + 2 * c.kv_size();
    if (c.o_bias) floats += c.hidden_size;
    if (c.mlp_bias) floats += 2 * c.intermediate_size + c.hidden_size;
    bytes += floats * static_cast<int64_t>(sizeof(float));
  }
  bytes += c.hidden_size * static_cast<int64_t>(sizeof(float));
  if (!c.tie_word_embeddings) {
    const TensorView head = checkpoint.get("lm_head.weight", table_shape);
    bytes += backend.packed_bytes({&head, 1}, table_type(type));
  }
  return bytes;
}

bool Transformer::forward(const Batch& batch, const std::atomic<bool>* give_up) {
  const ModelConfig& c = config_;
  const int64_t tokens = batch.num_tokens();
  const float eps = c.rms_norm_eps;
  Backend::RopeParams rope{.num_heads = static_cast<int>(c.num_heads),
                           .num_kv_heads = static_cast<int>(c.num_kv_heads),
                           .head_dim = static_cast<int>(c.head_dim),
                           .rotary_dim = static_cast<int>(c.head_dim),
                           .norm_eps = eps,
                           .cos_sin = rope_table_,
                           .interleaved = c.rope.interleaved};
  AttentionParams attention{.num_heads = static_cast<int>(c.num_heads),
                            .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};

  backend_.embed(*embed_tokens_, batch.token_ids, residual_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (give_up && give_up->load(std::memory_order_relaxed)) return false;
    const Layer& layer = layers_[i];
    if (i == 0)
      backend_.rms_norm(residual_, layer.input_norm, eps, tokens, c.hidden_size, hidden_);
    else  // hidden_ still holds the previous layer's MLP output
      backend_.add_rms_norm(residual_, hidden_, layer.input_norm, eps, tokens, c.hidden_size,
                            hidden_);
    backend_.linear(*layer.qkv_proj, layer.qkv_bias, hidden_, tokens, qkv_);
    rope.layer = attention.layer = static_cast<int>(i);
    rope.q_norm = layer.q_norm, rope.k_norm = layer.k_norm;
    backend_.rope_and_store_kv(rope, batch, qkv_);
    attention.sliding_window = c.sliding_window[i];
    backend_.attention(attention, batch, qkv_, attention_);
    backend_.linear(*layer.o_proj, layer.o_bias, attention_, tokens, hidden_);
    backend_.add_rms_norm(residual_, hidden_, layer.post_attention_norm, eps, tokens, c.hidden_size,
                          hidden_);
    backend_.linear(*layer.gate_up_proj, layer.gate_up_bias, hidden_, tokens, gate_up_);
    backend_.silu_mul(gate_up_, tokens, c.intermediate_size, activated_);
    backend_.linear(*layer.down_proj, layer.down_bias, activated_, tokens, hidden_);
  }
  backend_.add_rms_norm(residual_, hidden_, norm_, eps, tokens, c.hidden_size, hidden_);
  return true;
}

void Transformer::compute_logits(std::span<const int32_t> rows, float* logits) {
  // The layers are done with residual_.
  backend_.gather_rows(hidden_, rows, config_.hidden_size, residual_);
  backend_.logits(lm_head_ ? *lm_head_ : *embed_tokens_, residual_, std::ssize(rows), logits);
}

}  // namespace nanovllm
