// ModelConfig from config.json, and generation_config.json.

#include <algorithm>
#include <map>
#include <set>

#include "model/config_reader.h"
#include "model/model_config.h"

namespace nanovllm {
namespace {

// Keys by which checkpoints ask for something that this engine does not do, with the values that
// ask for nothing.
void refuse_unsupported(const ConfigReader& r) {
  static const std::map<std::string, std::vector<Json>> neutral = {
      {"quantization_config", {}},
      {"compression_config", {}},
      {"is_encoder_decoder", {false}},
      {"add_cross_attention", {false}},
      {"attn_logit_softcapping", {}},
      {"final_logit_softcapping", {}},
      {"query_pre_attn_scalar", {}},
      {"embedding_multiplier", {1}},
      {"residual_multiplier", {1}},
      {"attention_multiplier", {}},
      {"logits_scaling", {1}},
      {"logit_scale", {1}},
      {"scale_emb", {1}},
      {"scale_depth", {1}},
      {"num_experts", {0}},
      {"num_local_experts", {0}},
      {"num_experts_per_tok", {0}},
      {"n_routed_experts", {0}},
      {"clip_qkv", {}},
      {"alibi", {false}},
      {"parallel_attn", {false}},
      {"use_parallel_residual", {false}},
      {"partial_rotary_factor", {1}},
      {"rope_pct", {1}},
      {"rotary_pct", {1}},
      {"attention_chunk_size", {}},
      {"no_rope_layers", {Json::array()}},
      {"no_rope_layer_interval", {0}},
      {"use_qk_norm", {false}},
      {"pruned_heads", {Json::object(), Json::array()}},
      {"cross_attention_hidden_size", {}},
      {"kv_lora_rank", {}},
      {"q_lora_rank", {}},
      {"attention_out_bias", {false}},
      {"norm_after", {false}},
      {"num_nextn_predict_layers", {0}},
      {"vision_config", {}},
      {"audio_config", {}},
      {"text_config", {}},
      {"use_bidirectional_attention", {false}},
      {"is_causal", {true}},
      {"attention_sink", {}},
  };
  for (const auto& [key, values] : neutral) {
    if (!r.has(key.c_str())) continue;
    const Json& v = r.at(key.c_str());
    const bool harmless =
        std::any_of(values.begin(), values.end(), [&](const Json& n) { return n == v; });
    if (!harmless) {
      std::string shown = v.dump(-1, ' ', false, Json::error_handler_t::replace);
      if (shown.size() > 80) shown = shown.substr(0, 77) + "...";
      r.fail(key, "is " + shown + ", which is not supported");
    }
  }
}

RopeConfig parse_rope(const ConfigReader& r, int64_t max_positions) {
  RopeConfig rope;
  // The newer generation nests everything in rope_parameters, possibly once a layer type; the older
  // one has rope_theta at the top and the rest in rope_scaling.
  Json parameters = Json::object();
  const char* source = r.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  if (r.has(source)) {
    parameters = r.at(source);
    if (!parameters.is_object()) r.fail(source, "is not an object");
    const bool nested =
        parameters.contains("full_attention") || parameters.contains("sliding_attention");
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
  const ConfigReader p(parameters, r.name() + ": " + source);
  rope.theta = p.positive("rope_theta", r.positive("rope_theta", 10000.0), 1.001);
  if (p.number("partial_rotary_factor", 1.0) != 1.0)
    p.fail("partial_rotary_factor", "other than 1 is not supported");
  const std::string type = p.string("rope_type", p.string("type", "default"));
  rope.original_max_position_embeddings = p.positive(
      "original_max_position_embeddings",
      r.positive("original_max_position_embeddings", static_cast<double>(max_positions)));
  // "dynamic" changes the frequencies only past max_position_embeddings, which this engine never
  // passes.
  if (type == "default" || type == "dynamic" || type == "mrope_default") {
    if (type == "mrope_default")
      p.fail("rope_type", "is \"mrope_default\", which is not supported");
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
    p.fail("rope_type",
           "is \"" + type + "\"; supported are default, linear, dynamic, llama3 and yarn");
  }
  return rope;
}

void parse_sliding_window(const ConfigReader& r, ModelConfig* c) {
  c->sliding_window.assign(c->num_layers, 0);
  const bool mistral = c->architecture == "mistral", llama = c->architecture == "llama";
  int64_t window = r.integer("sliding_window", mistral && !r.at_exists("sliding_window") ? 4096 : 0,
                             0, INT32_MAX);
  if (llama && window != 0) r.fail("sliding_window", "is not supported for model_type llama");
  if (!mistral && !r.boolean("use_sliding_window", false)) window = 0;
  if (r.has("layer_types")) {
    const Json& types = r.at("layer_types");
    if (!types.is_array() || static_cast<int64_t>(types.size()) != c->num_layers)
      r.fail("layer_types", "is not a list of num_hidden_layers entries");
    for (int64_t i = 0; i < c->num_layers; ++i) {
      if (types[i] == "sliding_attention") {
        if (window == 0)
          r.fail("layer_types", "names sliding_attention, but no sliding_window is set");
        c->sliding_window[i] = window;
      } else if (types[i] != "full_attention") {
        r.fail("layer_types", "names " +
                                  types[i].dump(-1, ' ', false, Json::error_handler_t::replace) +
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

}  // namespace

ModelConfig parse_hf_config(std::string_view json, const std::string& name) {
  const Json document = parse_json_object(json, name);
  const ConfigReader r(document, name);
  ModelConfig c;
  c.architecture = r.string("model_type", "");
  if (c.architecture.empty()) throw Error(name, "key 'model_type' is missing");
  static const std::set<std::string> known = {"llama", "mistral", "qwen2", "qwen3"};
  if (!known.count(c.architecture))
    r.fail("model_type",
           "is \"" + c.architecture + "\"; supported are llama, mistral, qwen2 and qwen3");
  refuse_unsupported(r);
  const std::string activation = r.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")
    r.fail("hidden_act", "is \"" + activation + "\"; supported is silu");

  c.vocab_size = r.integer("vocab_size", {}, 1, kMaxModelSize);
  c.hidden_size = r.integer("hidden_size", {}, 1, kMaxModelSize);
  c.intermediate_size = r.integer("intermediate_size", {}, 1, kMaxModelSize);
  c.num_layers = r.integer("num_hidden_layers", {}, 1, 4096);
  c.num_heads = r.integer("num_attention_heads", {}, 1, 65536);
  // What a missing key means differs between the model types, as their classes in transformers do.
  const int64_t kv_default =
      c.architecture == "mistral" && !r.at_exists("num_key_value_heads") ? 8 : c.num_heads;
  c.num_kv_heads = r.integer("num_key_value_heads", kv_default, 1, 65536);
  if (c.num_heads % c.num_kv_heads != 0)
    r.fail("num_key_value_heads", "is " + std::to_string(c.num_kv_heads) +
                                      ", which does not divide num_attention_heads " +
                                      std::to_string(c.num_heads));
  const bool qwen3_default = c.architecture == "qwen3" && !r.at_exists("head_dim");
  c.head_dim = r.integer("head_dim", qwen3_default ? 128 : c.hidden_size / c.num_heads, 1, 65536);
  if (c.head_dim % 2 != 0)
    r.fail("head_dim",
           "is " + std::to_string(c.head_dim) + "; rotary embeddings need an even number");
  c.rms_norm_eps = static_cast<float>(r.positive("rms_norm_eps", 1e-6));
  c.max_position_embeddings = r.integer("max_position_embeddings",
                                        c.architecture == "mistral" ? 131072
                                        : c.architecture == "llama" ? 2048
                                                                    : 32768,
                                        1, int64_t{1} << 28);
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
    c.max_position_embeddings = static_cast<int64_t>(std::min(
        1e9, static_cast<double>(c.max_position_embeddings) * std::max(1.0, c.rope.factor)));
  if (c.rope.scaling == RopeConfig::Scaling::kYarn)
    c.max_position_embeddings =
        std::max(c.max_position_embeddings,
                 static_cast<int64_t>(
                     std::min(1e9, c.rope.original_max_position_embeddings * c.rope.factor)));
  parse_sliding_window(r, &c);
  c.eos_token_ids = r.token_ids("eos_token_id");
  const std::vector<int32_t> bos = r.token_ids("bos_token_id");
  if (!bos.empty()) c.bos_token_id = bos[0];
  return c;
}

GenerationConfig parse_generation_config(std::string_view json, const std::string& name) {
  const Json document = parse_json_object(json, name);
  const ConfigReader r(document, name);
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

}  // namespace nanovllm
