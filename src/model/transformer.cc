#include "model/transformer.h"

#include <cmath>

#include "formats/quantization.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

std::string layer_prefix(int64_t i) { return "model.layers." + std::to_string(i) + "."; }

Range scaled(const Range& heads, int64_t head_dim) {
  return {heads.begin * head_dim, heads.end * head_dim};
}

// A matrix of the checkpoint, [out, in], cut by rows or by columns.
TensorView cut_rows(Checkpoint& checkpoint, const std::string& name, int64_t out, int64_t in,
                    const Range& range) {
  return slice_rows(checkpoint.get(name, {out, in}), range.begin, range.size());
}
TensorView cut_columns(Checkpoint& checkpoint, const std::string& name, int64_t out, int64_t in,
                       const Range& range) {
  return slice_columns(checkpoint.get(name, {out, in}), range.begin, range.size());
}

// A rank's part of the matrices of one layer, as stacks of [out, in] tensors.
struct LayerMatrices {
  std::vector<TensorView> qkv, o, gate_up, down;
};
LayerMatrices layer_matrices(Checkpoint& checkpoint, const Shard& shard, int64_t i) {
  const ModelConfig& c = checkpoint.config();
  const std::string attn = layer_prefix(i) + "self_attn.", mlp = layer_prefix(i) + "mlp.";
  const Range q = scaled(shard.heads, c.head_dim), kv = scaled(shard.kv_heads, c.head_dim);
  const int64_t hidden = c.hidden_size, intermediate = c.intermediate_size;
  return {{cut_rows(checkpoint, attn + "q_proj.weight", c.q_size(), hidden, q),
           cut_rows(checkpoint, attn + "k_proj.weight", c.kv_size(), hidden, kv),
           cut_rows(checkpoint, attn + "v_proj.weight", c.kv_size(), hidden, kv)},
          {cut_columns(checkpoint, attn + "o_proj.weight", hidden, c.q_size(), q)},
          {cut_rows(checkpoint, mlp + "gate_proj.weight", intermediate, hidden, shard.mlp),
           cut_rows(checkpoint, mlp + "up_proj.weight", intermediate, hidden, shard.mlp)},
          {cut_columns(checkpoint, mlp + "down_proj.weight", hidden, intermediate, shard.mlp)}};
}

TensorView vocabulary_table(Checkpoint& checkpoint, const Shard& shard, const char* name) {
  const ModelConfig& c = checkpoint.config();
  return cut_rows(checkpoint, name, c.vocab_size, c.hidden_size, shard.vocab);
}

// Several ranks ask rank 0 at every layer whether to give up. Below this many tokens a layer takes
// no longer than a few of those questions, and a batch not long enough for anybody to mind.
constexpr int64_t kLongBatch = 64;

// Four bits, or three of a mantissa, are too few for the head, whose errors no later layer evens
// out, and for the embedding it is often tied to.
WeightType table_type(WeightType type) {
  return type == WeightType::kInt4 || type == WeightType::kFloat8 ? WeightType::kInt8 : type;
}

}  // namespace

// Concatenates vectors (norm weights, biases) of the checkpoint, or parts of them, into backend
// memory. Null for no parts.
float* Transformer::load_vector(Checkpoint& checkpoint, const std::vector<VectorPart>& parts) {
  int64_t total = 0;
  for (const VectorPart& part : parts) total += part.range.size();
  std::vector<float> values(total);
  int64_t at = 0;
  for (const VectorPart& part : parts) {
    const TensorView view =
        slice_rows(checkpoint.get(part.name, {part.size}), part.range.begin, part.range.size());
    dequantize_row(view.dtype, view.data.data(), values.data() + at, part.range.size());
    at += part.range.size();
  }
  float* out = backend_.allocate(total);
  backend_.upload(values, out);
  weight_bytes_ += total * static_cast<int64_t>(sizeof(float));
  return out;
}

Transformer::Transformer(Checkpoint& checkpoint, Backend& backend, Communicator& ranks,
                         const Shard& shard, WeightType type, int64_t max_tokens,
                         int64_t max_positions)
    : config_(checkpoint.config()), backend_(backend), ranks_(ranks), shard_(shard) {
  const ModelConfig& c = config_;
  auto pack = [&](const std::vector<TensorView>& parts, WeightType as) {
    auto weight = backend_.pack(parts, as);
    weight_bytes_ += weight->bytes;
    for (const TensorView& part : parts) checkpoint.release(part);
    return weight;
  };
  const Range q = scaled(shard.heads, c.head_dim), kv = scaled(shard.kv_heads, c.head_dim);
  auto load_whole = [&](const std::string& name, int64_t size) {
    return load_vector(checkpoint, {{name, size, {0, size}}});
  };
  // The bias of a product whose parts the ranks sum: once, on rank 0.
  auto load_bias_of_sum = [&](const std::string& name) {
    if (shard.rank == 0) return load_whole(name, c.hidden_size);
    checkpoint.get(name, {c.hidden_size});
    return static_cast<float*>(nullptr);
  };
  embed_tokens_ =
      pack({vocabulary_table(checkpoint, shard, "model.embed_tokens.weight")}, table_type(type));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string p = layer_prefix(i), attn = p + "self_attn.", mlp = p + "mlp.";
    Layer& layer = layers_.emplace_back();
    const LayerMatrices m = layer_matrices(checkpoint, shard, i);
    layer.qkv_proj = pack(m.qkv, type);
    layer.o_proj = pack(m.o, type);
    layer.gate_up_proj = pack(m.gate_up, type);
    layer.down_proj = pack(m.down, type);
    layer.input_norm = load_whole(p + "input_layernorm.weight", c.hidden_size);
    layer.post_attention_norm = load_whole(p + "post_attention_layernorm.weight", c.hidden_size);
    if (c.qk_norm) {
      layer.q_norm = load_whole(attn + "q_norm.weight", c.head_dim);
      layer.k_norm = load_whole(attn + "k_norm.weight", c.head_dim);
    }
    if (c.qkv_bias)
      layer.qkv_bias = load_vector(checkpoint, {{attn + "q_proj.bias", c.q_size(), q},
                                                {attn + "k_proj.bias", c.kv_size(), kv},
                                                {attn + "v_proj.bias", c.kv_size(), kv}});
    if (c.o_bias) layer.o_bias = load_bias_of_sum(attn + "o_proj.bias");
    if (c.mlp_bias) {
      layer.gate_up_bias =
          load_vector(checkpoint, {{mlp + "gate_proj.bias", c.intermediate_size, shard.mlp},
                                   {mlp + "up_proj.bias", c.intermediate_size, shard.mlp}});
      layer.down_bias = load_bias_of_sum(mlp + "down_proj.bias");
    }
  }
  norm_ = load_whole("model.norm.weight", c.hidden_size);
  if (!c.tie_word_embeddings)
    lm_head_ = pack({vocabulary_table(checkpoint, shard, "lm_head.weight")}, table_type(type));

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
  qkv_ = backend_.allocate(max_tokens * (q.size() + 2 * kv.size()));
  attention_ = backend_.allocate(max_tokens * q.size());
  gate_up_ = backend_.allocate(max_tokens * 2 * shard.mlp.size());
  activated_ = backend_.allocate(max_tokens * shard.mlp.size());
}

int64_t Transformer::planned_activation_floats(const ModelConfig& c, const Shard& shard,
                                               int64_t max_tokens, int64_t max_positions) {
  const int64_t q = shard.heads.size() * c.head_dim, kv = shard.kv_heads.size() * c.head_dim;
  return max_positions * c.head_dim +
         max_tokens * (2 * c.hidden_size + 2 * q + 2 * kv + 3 * shard.mlp.size());
}

int64_t Transformer::planned_weight_bytes(Checkpoint& checkpoint, const Backend& backend,
                                          const Shard& shard, WeightType type) {
  const ModelConfig& c = checkpoint.config();
  const TensorView table = vocabulary_table(checkpoint, shard, "model.embed_tokens.weight");
  int64_t bytes = backend.packed_bytes({&table, 1}, table_type(type));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const LayerMatrices m = layer_matrices(checkpoint, shard, i);
    for (const auto* parts : {&m.qkv, &m.o, &m.gate_up, &m.down})
      bytes += backend.packed_bytes(*parts, type);
    int64_t floats = 2 * c.hidden_size;
    if (c.qk_norm) floats += 2 * c.head_dim;
    if (c.qkv_bias) floats += (shard.heads.size() + 2 * shard.kv_heads.size()) * c.head_dim;
    if (c.o_bias && shard.rank == 0) floats += c.hidden_size;
    if (c.mlp_bias) floats += 2 * shard.mlp.size() + (shard.rank == 0 ? c.hidden_size : 0);
    bytes += floats * static_cast<int64_t>(sizeof(float));
  }
  bytes += c.hidden_size * static_cast<int64_t>(sizeof(float));
  if (!c.tie_word_embeddings) {
    const TensorView head = vocabulary_table(checkpoint, shard, "lm_head.weight");
    bytes += backend.packed_bytes({&head, 1}, table_type(type));
  }
  return bytes;
}

bool Transformer::gives_up(int64_t tokens, const std::atomic<bool>* give_up) {
  if (!give_up || (ranks_.size() > 1 && tokens < kLongBatch)) return false;
  return ranks_.broadcast(give_up->load(std::memory_order_relaxed));
}

bool Transformer::forward(const Batch& batch, const std::atomic<bool>* give_up) {
  const ModelConfig& c = config_;
  const int64_t tokens = batch.num_tokens();
  const float eps = c.rms_norm_eps;
  const int num_heads = static_cast<int>(shard_.heads.size());
  Backend::RopeParams rope{.num_heads = num_heads,
                           .num_kv_heads = static_cast<int>(shard_.kv_heads.size()),
                           .head_dim = static_cast<int>(c.head_dim),
                           .rotary_dim = static_cast<int>(c.head_dim),
                           .norm_eps = eps,
                           .cos_sin = rope_table_,
                           .interleaved = c.rope.interleaved};
  AttentionParams attention{.num_heads = num_heads,
                            .scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim))};

  backend_.embed(*embed_tokens_, shard_.vocab.begin, batch.token_ids, residual_);
  ranks_.all_reduce(residual_, tokens * c.hidden_size);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (gives_up(tokens, give_up)) return false;
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
    ranks_.all_reduce(hidden_, tokens * c.hidden_size);
    backend_.add_rms_norm(residual_, hidden_, layer.post_attention_norm, eps, tokens, c.hidden_size,
                          hidden_);
    backend_.linear(*layer.gate_up_proj, layer.gate_up_bias, hidden_, tokens, gate_up_);
    backend_.silu_mul(gate_up_, tokens, shard_.mlp.size(), activated_);
    backend_.linear(*layer.down_proj, layer.down_bias, activated_, tokens, hidden_);
    ranks_.all_reduce(hidden_, tokens * c.hidden_size);
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
