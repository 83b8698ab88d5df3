#include "model/model_config.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "formats/gguf.h"
#include "formats/json.h"
#include "nanovllm/error.h"

namespace nanovllm {
namespace {

using Json = nlohmann::json;

Json parse_json_object(std::string_view text, const std::string& name) {
  Json j = parse_json(text, name);  // bounds the depth, which copies and comparisons below recurse into
  if (!j.is_object()) throw Error(name, "is not a JSON object");
  return j;
}

// A JSON object with typed, checked access; null counts as absent, as in transformers.
class Reader {
 public:
  Reader(const Json& json, std::string name) : json_(json), name_(std::move(name)) {}

  bool has(const char* key) const { return json_.contains(key) && !json_[key].is_null(); }
  bool at_exists(const char* key) const { return json_.contains(key); }  // null counts here
  const Json& at(const char* key) const { return json_[key]; }

  int64_t integer(const char* key, std::optional<int64_t> fallback, int64_t low, int64_t high) const {
    if (!has(key)) {
      if (!fallback) throw Error(name_, std::string("key '") + key + "' is missing");
      return *fallback;
    }
    const Json& v = json_[key];
    if (!v.is_number_integer()) fail(key, "is not an integer");
    if (v.is_number_unsigned() ? v.get<uint64_t>() > static_cast<uint64_t>(high)
                               : v.get<int64_t>() < low || v.get<int64_t>() > high)
      fail(key, "is " + v.dump() + ", allowed is " + std::to_string(low) + " to " + std::to_string(high));
    if (v.get<int64_t>() < low)
      fail(key, "is " + v.dump() + ", allowed is " + std::to_string(low) + " to " + std::to_string(high));
    return v.get<int64_t>();
  }
  double number(const char* key, double fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_number()) fail(key, "is not a number");
    const double v = json_[key].get<double>();
    if (!std::isfinite(v)) fail(key, "is not finite");
    return v;
  }
  // The bounds keep float32 arithmetic with the value finite.
  double positive(const char* key, double fallback, double low = 1e-20, double high = 1e15) const {
    const double v = number(key, fallback);
    if (v < low || v > high)
      fail(key, "is " + Json(v).dump() + ", allowed is " + Json(low).dump() + " to " + Json(high).dump());
    return v;
  }
  double optional_factor(const char* key) const {  // 0: not given
    return has(key) && number(key, 0) != 0 ? positive(key, 0, 1e-6, 1e6) : 0.0;
  }
  bool boolean(const char* key, bool fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_boolean()) fail(key, "is not true or false");
    return json_[key].get<bool>();
  }
  std::string string(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!json_[key].is_string()) fail(key, "is not a string");
    return json_[key].get<std::string>();
  }
  std::vector<int32_t> token_ids(const char* key) const {  // one id or a list
    std::vector<int32_t> ids;
    if (!has(key)) return ids;
    auto add = [&](const Json& v) {
      if (!v.is_number_integer() ||
          (v.is_number_unsigned() ? v.get<uint64_t>() > INT32_MAX : v.get<int64_t>() < -1))
        fail(key, "is not a token id or a list of them");
      if (v.get<int64_t>() >= 0) ids.push_back(v.get<int32_t>());
    };
    const Json& v = json_[key];
    if (v.is_array())
      for (const Json& e : v) add(e);
    else
      add(v);
    return ids;
  }
  [[noreturn]] void fail(const std::string& key, const std::string& what) const {
    throw Error(name_, "key '" + key + "' " + what);
  }
  const std::string& name() const { return name_; }

 private:
  const Json& json_;
  std::string name_;
};

// Keys by which checkpoints ask for something that this engine does not do, with the values that ask for nothing.
void refuse_unsupported(const Reader& r) {
  static const std::map<std::string, std::vector<Json>> neutral = {
      {"quantization_config", {}}, {"compression_config", {}},
      {"is_encoder_decoder", {false}}, {"add_cross_attention", {false}},
      {"attn_logit_softcapping", {}}, {"final_logit_softcapping", {}}, {"query_pre_attn_scalar", {}},
      {"embedding_multiplier", {1}}, {"residual_multiplier", {1}}, {"attention_multiplier", {}},
      {"logits_scaling", {1}}, {"logit_scale", {1}}, {"scale_emb", {1}}, {"scale_depth", {1}},
      {"num_experts", {0}}, {"num_local_experts", {0}}, {"num_experts_per_tok", {0}}, {"n_routed_experts", {0}},
      {"clip_qkv", {}}, {"alibi", {false}}, {"parallel_attn", {false}}, {"use_parallel_residual", {false}},
      {"partial_rotary_factor", {1}}, {"rope_pct", {1}}, {"rotary_pct", {1}}, {"attention_chunk_size", {}},
      {"no_rope_layers", {Json::array()}}, {"no_rope_layer_interval", {0}}, {"use_qk_norm", {false}},
      {"pruned_heads", {Json::object(), Json::array()}}, {"cross_attention_hidden_size", {}},
      {"kv_lora_rank", {}}, {"q_lora_rank", {}}, {"attention_out_bias", {false}}, {"norm_after", {false}},
      {"num_nextn_predict_layers", {0}}, {"vision_config", {}}, {"audio_config", {}}, {"text_config", {}},
      {"use_bidirectional_attention", {false}}, {"is_causal", {true}}, {"attention_sink", {}},
  };
  for (const auto& [key, values] : neutral) {
    if (!r.has(key.c_str())) continue;
    const Json& v = r.at(key.c_str());
    const bool harmless = std::any_of(values.begin(), values.end(), [&](const Json& n) { return n == v; });
    if (!harmless) {
      std::string shown = v.dump(-1, ' ', false, Json::error_handler_t::replace);
      if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
      r.fail(key, "is " + shown + ", which is not supported");
    }
  }
}

RopeConfig parse_rope(const Reader& r, int64_t max_positions) {
  RopeConfig rope;
  // The newer generation nests everything in rope_parameters, possibly once a layer type; the older one has rope_theta at
  // the top and the rest in rope_scaling.
  Json parameters = Json::object();
  const char* source = r.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (r.has(source)) {
    parameters = r.at(source);
    if (!parameters.is_object()) r.fail(source, "is not an object");
    const bool nested = parameters.contains("full_attention") || parameters.contains("sliding_attention");
    if (nested) {
      Json first;
      for (const auto& [type, value] : parameters.items()) {
        if (!value.is_object()) r.fail(source, "holds '" + type + "', which is not an object");
        if (first.is_null()) first = value;
        if (value != first) r.fail(source, "differs between layer types, which is not supported");
      }
      parameters = first;
    }
  }
  const Reader p(parameters, r.name() + ": " + source);
  rope.theta = p.positive("rope_theta", r.positive("rope_theta", 10000.0), 1.001);
  if (p.number("partial_rotary_factor", 1.0) != 1.0)
    p.fail("partial_rotary_factor", "other than 1 is not supported");
  const std::string type = p.string("rope_type", p.string("type", "default"));
  rope.original_max_position_embeddings = p.positive(
      "original_max_position_embeddings",
      r.positive("original_max_position_embeddings", static_cast<double>(max_positions)));
  // "dynamic" changes the frequencies only past max_position_embeddings, which this engine never passes.
  if (type == "default" || type == "dynamic" || type == "mrope_default") {
    if (type == "mrope_default") p.fail("rope_type", "is \"mrope_default\", which is not supported");
    return rope;
  }
  if (!p.has("factor")) p.fail("factor", "is missing");
  rope.factor = p.positive("factor", 1.0, 1e-3, 1e6);
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
  } else if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::kLlama3;
    rope.low_freq_factor = p.positive("low_freq_factor", 1.0);
    rope.high_freq_factor = p.positive("high_freq_factor", 4.0);
    if (rope.high_freq_factor <= rope.low_freq_factor)
      p.fail("high_freq_factor", "must be larger than low_freq_factor");
  } else if (type == "yarn") {
    rope.scaling = RopeConfig::Scaling::kYarn;
    rope.beta_fast = p.positive("beta_fast", 32.0);
    rope.beta_slow = p.positive("beta_slow", 1.0);
    rope.attention_factor = p.optional_factor("attention_factor");
    rope.mscale = p.optional_factor("mscale");
    rope.mscale_all_dim = p.optional_factor("mscale_all_dim");
    rope.truncate = p.boolean("truncate", true);
  } else {
    p.fail("rope_type", "is \"" + type + "\"; supported are default, linear, dynamic, llama3 and yarn");
  }
  return rope;
}

void parse_sliding_window(const Reader& r, ModelConfig* c) {
  c->sliding_window.assign(c->num_layers, 0);
  const bool mistral = c->architecture == "mistral", llama = c->architecture == "llama";
  int64_t window = r.integer("sliding_window", mistral && !r.at_exists("sliding_window") ? 4096 : 0, 0, INT32_MAX);
  if (llama && window != 0) r.fail("sliding_window", "is not supported for model_type llama");
  if (!mistral && !r.boolean("use_sliding_window", false)) window = 0;
  if (r.has("layer_types")) {
    const Json& types = r.at("layer_types");
    if (!types.is_array() || static_cast<int64_t>(types.size()) != c->num_layers)
      r.fail("layer_types", "is not a list of num_hidden_layers entries");
    for (int64_t i = 0; i < c->num_layers; ++i) {
      if (types[i] == "sliding_attention") {
        if (window == 0) r.fail("layer_types", "names sliding_attention, but no sliding_window is set");
        c->sliding_window[i] = window;
      } else if (types[i] != "full_attention") {
        r.fail("layer_types", "names " + types[i].dump(-1, ' ', false, Json::error_handler_t::replace) +
                                  "; supported are full_attention and sliding_attention");
      }
    }
    if (mistral && window != 0 &&
        std::count(c->sliding_window.begin(), c->sliding_window.end(), window) != c->num_layers)
      r.fail("layer_types", "mixes attention types, which model_type mistral does not do");
    return;
  }
  const int64_t first = mistral ? 0 : r.integer("max_window_layers", 28, 0, INT32_MAX);
  for (int64_t i = first; i < c->num_layers; ++i) c->sliding_window[i] = window;
}

// Bounds that keep every product of two sizes inside int64 and every index inside int32.
constexpr int64_t kMaxSize = 1 << 24;

}  // namespace

ModelConfig parse_hf_config(std::string_view json, const std::string& name) {
  const Json document = parse_json_object(json, name);
  const Reader r(document, name);
  ModelConfig c;
  c.architecture = r.string("model_type", "");
  if (c.architecture.empty()) throw Error(name, "key 'model_type' is missing");
  static const std::set<std::string> known = {"llama", "mistral", "qwen2", "qwen3"};
  if (!known.count(c.architecture))
    r.fail("model_type", "is \"" + c.architecture + "\"; supported are llama, mistral, qwen2 and qwen3");
  refuse_unsupported(r);
  const std::string activation = r.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    r.fail("hidden_act", "is \"" + activation + "\"; supported is silu");

  c.vocab_size = r.integer("vocab_size", {}, 1, kMaxSize);
  c.hidden_size = r.integer("hidden_size", {}, 1, kMaxSize);
  c.intermediate_size = r.integer("intermediate_size", {}, 1, kMaxSize);
  c.num_layers = r.integer("num_hidden_layers", {}, 1, 4096);
  c.num_heads = r.integer("num_attention_heads", {}, 1, 65536);
  // What a missing key means differs between the model types, as their classes in transformers do.
  const int64_t kv_default =
      c.architecture == "mistral" && !r.at_exists("num_key_value_heads") ? 8 : c.num_heads;
  c.num_kv_heads = r.integer("num_key_value_heads", kv_default, 1, 65536);
  if (c.num_heads % c.num_kv_heads != 0)
    r.fail("num_key_value_heads", "is " + std::to_string(c.num_kv_heads) +
                                      ", which does not divide num_attention_heads " + std::to_string(c.num_heads));
  const bool qwen3_default = c.architecture == "qwen3" && !r.at_exists("head_dim");
  c.head_dim = r.integer("head_dim", qwen3_default ? 128 : c.hidden_size / c.num_heads, 1, 65536);
  if (c.head_dim % 2 != 0)
    r.fail("head_dim", "is " + std::to_string(c.head_dim) + "; rotary embeddings need an even number");
  c.rms_norm_eps = static_cast<float>(r.positive("rms_norm_eps", 1e-6));
  c.max_position_embeddings = r.integer(
      "max_position_embeddings",
      c.architecture == "mistral" ? 131072 : c.architecture == "llama" ? 2048 : 32768, 1, int64_t{1} << 28);
  c.tie_word_embeddings = r.boolean("tie_word_embeddings", false);

  const bool attention_bias = r.boolean("attention_bias", false);
  if (attention_bias && (c.architecture == "mistral" || c.architecture == "qwen2"))
    r.fail("attention_bias", "is not supported for model_type " + c.architecture);
  c.qkv_bias = attention_bias || c.architecture == "qwen2";
  c.o_bias = attention_bias;
  c.mlp_bias = r.boolean("mlp_bias", false);
  if (c.mlp_bias && c.architecture != "llama")
    r.fail("mlp_bias", "is not supported for model_type " + c.architecture);
  c.qk_norm = c.architecture == "qwen3";

  c.rope = parse_rope(r, c.max_position_embeddings);
  c.rope.interleaved = r.boolean("rope_interleaved", false);
  if (c.rope.scaling == RopeConfig::Scaling::kLinear)
    c.max_position_embeddings = static_cast<int64_t>(
        std::min(1e9, static_cast<double>(c.max_position_embeddings) * std::max(1.0, c.rope.factor)));
  if (c.rope.scaling == RopeConfig::Scaling::kYarn)
    c.max_position_embeddings = std::max(
        c.max_position_embeddings,
        static_cast<int64_t>(std::min(1e9, c.rope.original_max_position_embeddings * c.rope.factor)));
  parse_sliding_window(r, &c);
  c.eos_token_ids = r.token_ids("eos_token_id");
  const std::vector<int32_t> bos = r.token_ids("bos_token_id");
  if (!bos.empty()) c.bos_token_id = bos[0];
  return c;
}

ModelConfig parse_gguf_config(const GgufFile& file) {
  ModelConfig c;
  const std::string& name = file.path();
  const auto architecture = file.get_string("general.architecture");
  if (!architecture) throw Error(name, "key 'general.architecture' is missing");
  c.architecture = std::string(*architecture);
  if (c.architecture != "llama" && c.architecture != "qwen2" && c.architecture != "qwen3")
    throw Error(name, "key 'general.architecture' is \"" + c.architecture + "\"; supported are llama, qwen2 and qwen3");
  const std::string prefix = c.architecture + ".";
  auto integer = [&](const std::string& key, std::optional<int64_t> fallback, int64_t high) {
    const auto v = file.get_int(prefix + key);
    if (!v && !fallback) throw Error(name, "key '" + prefix + key + "' is missing");
    const int64_t value = v.value_or(fallback.value_or(0));
    if (value < 1 || value > high)
      throw Error(name, "key '" + prefix + key + "' is " + std::to_string(value) + ", allowed is 1 to " +
                            std::to_string(high));
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
  c.hidden_size = integer("embedding_length", {}, kMaxSize);
  c.intermediate_size = integer("feed_forward_length", {}, kMaxSize);
  c.num_heads = integer("attention.head_count", {}, 65536);
  c.num_kv_heads = integer("attention.head_count_kv", c.num_heads, 65536);
  if (c.num_heads % c.num_kv_heads != 0)
    throw Error(name, "key '" + prefix + "attention.head_count_kv' does not divide the number of heads");
  c.head_dim = integer("attention.key_length", std::max<int64_t>(1, c.hidden_size / c.num_heads), 65536);
  if (integer("attention.value_length", c.head_dim, 65536) != c.head_dim)
    throw Error(name, "key '" + prefix + "attention.value_length' differs from key_length, which is not supported");
  if (integer("rope.dimension_count", c.head_dim, 65536) != c.head_dim)
    throw Error(name, "key '" + prefix + "rope.dimension_count' differs from the head size, which is not supported");
  if (c.head_dim % 2 != 0) throw Error(name, "the head size is odd; rotary embeddings need an even number");
  c.max_position_embeddings = integer("context_length", {}, int64_t{1} << 28);
  auto number = [&](const std::string& key, double fallback, double low, double high) {
    const double value = file.get_double(prefix + key).value_or(fallback);
    if (!(value >= low && value <= high))
      throw Error(name, "key '" + prefix + key + "' is " + Json(value).dump() + ", allowed is " + Json(low).dump() +
                            " to " + Json(high).dump());
    return value;
  };
  c.rms_norm_eps = static_cast<float>(number("attention.layer_norm_rms_epsilon", 1e-5, 1e-20, 1e15));
  c.qk_norm = c.architecture == "qwen3";
  c.qkv_bias = c.architecture == "qwen2" || file.tensors().count("blk.0.attn_q.bias") != 0;
  c.o_bias = file.tensors().count("blk.0.attn_output.bias") != 0;
  c.mlp_bias = file.tensors().count("blk.0.ffn_gate.bias") != 0;
  c.tie_word_embeddings = file.tensors().count("output.weight") == 0;

  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end() || embedding->second.shape.size() != 2)
    throw Error(name, "tensor 'token_embd.weight' is missing or not a matrix");
  c.vocab_size = embedding->second.shape[0];
  if (c.vocab_size < 1 || c.vocab_size > kMaxSize) throw Error(name, "tensor 'token_embd.weight' has an absurd number of rows");

  RopeConfig& rope = c.rope;
  rope.interleaved = c.architecture == "llama";
  rope.theta = number("rope.freq_base", 10000.0, 1.001, 1e15);
  rope.freq_factors = file.tensors().count("rope_freqs.weight") != 0;
  const std::string scaling(file.get_string(prefix + "rope.scaling.type").value_or("none"));
  rope.factor = number("rope.scaling.factor", 1.0, 1e-3, 1e6);
  rope.original_max_position_embeddings =
      static_cast<double>(file.get_int(prefix + "rope.scaling.original_context_length").value_or(c.max_position_embeddings));
  if (scaling == "linear") {
    rope.scaling = RopeConfig::Scaling::kLinear;
  } else if (scaling == "yarn") {
    rope.scaling = RopeConfig::Scaling::kYarn;
    rope.beta_fast = number("rope.scaling.yarn_beta_fast", 32.0, 1e-20, 1e15);
    rope.beta_slow = number("rope.scaling.yarn_beta_slow", 1.0, 1e-20, 1e15);
    // Here a factor on top of yarn's own 0.1 ln(factor) + 1, where transformers' attention_factor replaces it.
    rope.attention_factor = number("rope.scaling.attn_factor", 1.0, 1e-6, 1e6) *
                            (rope.factor <= 1 ? 1.0 : 0.1 * std::log(rope.factor) + 1.0);
  } else if (scaling != "none" && !scaling.empty()) {
    throw Error(name, "key '" + prefix + "rope.scaling.type' is \"" + scaling + "\"; supported are none, linear and yarn");
  }
  c.sliding_window.assign(c.num_layers, 0);
  auto token = [&](const char* key) {
    const auto v = file.get_int(key);
    return v && *v >= 0 && *v < c.vocab_size ? static_cast<int32_t>(*v) : -1;
  };
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"})
    if (const int32_t id = token(key);
        id >= 0 && std::find(c.eos_token_ids.begin(), c.eos_token_ids.end(), id) == c.eos_token_ids.end())
      c.eos_token_ids.push_back(id);
  c.bos_token_id = token("tokenizer.ggml.bos_token_id");
  return c;
}

GenerationConfig parse_generation_config(std::string_view json, const std::string& name) {
  const Json document = parse_json_object(json, name);
  const Reader r(document, name);
  GenerationConfig g;
  auto number = [&](const char* key, std::optional<double>* out) {
    if (r.has(key)) *out = r.number(key, 0);
  };
  number("temperature", &g.defaults.temperature);
  number("top_p", &g.defaults.top_p);
  number("min_p", &g.defaults.min_p);
  number("repetition_penalty", &g.defaults.repetition_penalty);
  if (r.has("top_k")) g.defaults.top_k = r.integer("top_k", 0, -1, INT32_MAX);
  g.eos_token_ids = r.token_ids("eos_token_id");
  return g;
}

void fill_rope_table(const RopeConfig& rope, int64_t head_dim, int64_t max_positions, const float* freq_factors,
                     float* table) {
  const int64_t half = head_dim / 2;
  std::vector<float> inv_freq(half);
  float amplitude = 1.0f;
  for (int64_t i = 0; i < half; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    inv_freq[i] = 1.0f / static_cast<float>(std::pow(rope.theta, static_cast<double>(exponent)));
  }
  if (rope.scaling == RopeConfig::Scaling::kLinear) {
    for (float& f : inv_freq) f /= static_cast<float>(rope.factor);
  } else if (rope.scaling == RopeConfig::Scaling::kLlama3) {
    const double low_wavelength = rope.original_max_position_embeddings / rope.low_freq_factor;
    const double high_wavelength = rope.original_max_position_embeddings / rope.high_freq_factor;
    for (float& f : inv_freq) {
      const double wavelength = 2 * M_PI / f;
      if (wavelength < high_wavelength) continue;
      if (wavelength > low_wavelength) {
        f = static_cast<float>(f / rope.factor);
      } else {
        const double smooth = (rope.original_max_position_embeddings / wavelength - rope.low_freq_factor) /
                              (rope.high_freq_factor - rope.low_freq_factor);
        f = static_cast<float>((1 - smooth) * f / rope.factor + smooth * f);
      }
    }
  } else if (rope.scaling == RopeConfig::Scaling::kYarn) {  // https://arxiv.org/abs/2309.00071
    auto correction_dim = [&](double rotations) {
      return head_dim * std::log(rope.original_max_position_embeddings / (rotations * 2 * M_PI)) /
             (2 * std::log(rope.theta));
    };
    double low = correction_dim(rope.beta_fast), high = correction_dim(rope.beta_slow);
    if (rope.truncate) low = std::floor(low), high = std::ceil(high);
    low = std::max(low, 0.0), high = std::min(high, static_cast<double>(head_dim - 1));
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < half; ++i) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      inv_freq[i] = static_cast<float>(inv_freq[i] / rope.factor * ramp + inv_freq[i] * (1 - ramp));
    }
    auto mscale = [&](double m) { return rope.factor <= 1 ? 1.0 : 0.1 * m * std::log(rope.factor) + 1.0; };
    amplitude = static_cast<float>(rope.attention_factor != 0 ? rope.attention_factor
                                   : rope.mscale != 0 && rope.mscale_all_dim != 0
                                       ? mscale(rope.mscale) / mscale(rope.mscale_all_dim)
                                       : mscale(1.0));
  }
  if (freq_factors)
    for (int64_t i = 0; i < half; ++i) inv_freq[i] /= freq_factors[i];
  for (int64_t p = 0; p < max_positions; ++p) {
    float* row = table + p * head_dim;
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * inv_freq[i];
      row[i] = std::cos(angle) * amplitude;
      row[half + i] = std::sin(angle) * amplitude;
    }
  }
}

}  // namespace nanovllm
