"""Writes a random checkpoint of a random supported architecture: odd shapes, both generations of config.json.

The weights are large enough that attention, biases, norms and MLP all change the result.
"""

import json
import pathlib

import numpy as np

import reference_model

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def pick(rng, *choices):
    return choices[rng.integers(len(choices))]


def random_rope(rng, max_positions):
    rope = {"rope_type": pick(rng, "default", "default", "linear", "llama3", "yarn"),
            "rope_theta": pick(rng, 100.0, 10000.0, 500000.0, 1000000.0)}
    original = int(rng.integers(16, 200))
    if rope["rope_type"] == "linear":
        rope["factor"] = pick(rng, 2.0, 3.5)
    elif rope["rope_type"] == "llama3":
        rope.update(factor=pick(rng, 4.0, 8.0, 32.0), low_freq_factor=1.0, high_freq_factor=pick(rng, 2.0, 4.0),
                    original_max_position_embeddings=original)
    elif rope["rope_type"] == "yarn":
        rope.update(factor=pick(rng, 2.0, 4.0), original_max_position_embeddings=original)
        if rng.random() < 0.3:
            rope.update(beta_fast=16.0, beta_slow=2.0)
        if rng.random() < 0.3:
            rope.update(attention_factor=1.2)
    return rope


def random_config(rng):
    """Returns (config.json as a dict, safetensors dtype)."""
    kind = pick(rng, "llama", "qwen2", "qwen3", "mistral")
    kv_heads, group = int(rng.integers(1, 5)), int(rng.integers(1, 8))
    heads, head_dim = kv_heads * group, 2 * int(np.exp(rng.uniform(0, np.log(130))))
    while heads * head_dim > 1000:
        head_dim = head_dim // 4 * 2
    # Not below 8: a norm over two or three numbers makes float32 itself, transformers' too, wander by 1e-3.
    explicit = kind == "qwen3" or heads * head_dim < 8 or rng.random() < 0.5
    hidden = int(np.exp(rng.uniform(np.log(8), np.log(500)))) if explicit else heads * head_dim
    if kind == "llama":  # transformers insists, although nothing depends on it when head_dim is given
        hidden = -(-hidden // heads) * heads
    layers = int(rng.integers(1, 5))
    max_positions = int(rng.integers(330, 700))
    c = {"architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                            "mistral": "MistralForCausalLM"}[kind]],
         "model_type": kind, "hidden_act": "silu", "hidden_size": hidden, "num_hidden_layers": layers,
         "num_attention_heads": heads, "num_key_value_heads": kv_heads, "intermediate_size": int(rng.integers(3, 150)),
         "vocab_size": int(rng.integers(11, 400)), "max_position_embeddings": max_positions,
         "rms_norm_eps": pick(rng, 1e-5, 1e-6), "tie_word_embeddings": bool(rng.random() < 0.5),
         "bos_token_id": 1, "eos_token_id": 2}
    if explicit:
        c["head_dim"] = head_dim
    if kind == "llama":
        c["attention_bias"], c["mlp_bias"] = bool(rng.random() < 0.4), bool(rng.random() < 0.3)
    if kind == "qwen3":
        c["attention_bias"] = bool(rng.random() < 0.4)
    if kind == "mistral":
        c["sliding_window"] = pick(rng, None, int(rng.integers(1, 50)), int(rng.integers(1, 300)))
    if kind in ("qwen2", "qwen3"):
        c["use_sliding_window"] = bool(rng.random() < 0.5)
        c["sliding_window"] = int(rng.integers(1, 60))
        c["max_window_layers"] = int(rng.integers(0, layers + 1))
    dtype = pick(rng, "F32", "F16", "BF16")
    rope = random_rope(rng, max_positions)
    if rng.random() < 0.5:  # as transformers 5 writes it
        c["rope_parameters"] = rope
        c["dtype"] = DTYPES[dtype]
        if kind in ("qwen2", "qwen3"):
            c["layer_types"] = ["sliding_attention" if c["use_sliding_window"] and i >= c["max_window_layers"] else
                                "full_attention" for i in range(layers)]
            if not c["use_sliding_window"]:
                c["sliding_window"] = None
    else:
        c["torch_dtype"] = DTYPES[dtype]
        theta = rope.pop("rope_theta")
        if kind != "llama" or theta != 10000.0 or rope["rope_type"] != "default":
            c["rope_theta"] = theta
        if rope["rope_type"] == "linear" and rng.random() < 0.5:
            rope["type"] = rope.pop("rope_type")
        if rope.get("rope_type") != "default":
            c["rope_scaling"] = rope
        elif rng.random() < 0.5:
            c["rope_scaling"] = None
        for key, default in (("tie_word_embeddings", False), ("rms_norm_eps", 1e-6), ("attention_bias", False)):
            if c.get(key) == default and rng.random() < 0.3:
                del c[key]
        if kind == "llama" and group == 1 and rng.random() < 0.5:
            del c["num_key_value_heads"]
    return c, dtype


def random_weights(rng, c):
    hidden, inner, vocab = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    heads = c["num_attention_heads"]
    kv_heads = c.get("num_key_value_heads", heads)
    head_dim = c.get("head_dim") or hidden // heads
    w = {}

    def matrix(name, rows, columns, gain, bias=False):
        w[name + ".weight"] = gain / columns ** 0.5 * rng.standard_normal((rows, columns))
        if bias:
            w[name + ".bias"] = 0.4 * rng.standard_normal(rows)

    def norm(name, size):
        w[name + ".weight"] = 1 + 0.25 * rng.standard_normal(size)

    attention_bias, mlp_bias = c.get("attention_bias", False), c.get("mlp_bias", False)
    qkv_bias = attention_bias or c["model_type"] == "qwen2"
    matrix("model.embed_tokens", vocab, hidden, 2.0)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        norm(p + "input_layernorm", hidden)
        norm(p + "post_attention_layernorm", hidden)
        matrix(p + "self_attn.q_proj", heads * head_dim, hidden, 1.5, qkv_bias)
        matrix(p + "self_attn.k_proj", kv_heads * head_dim, hidden, 1.5, qkv_bias)
        matrix(p + "self_attn.v_proj", kv_heads * head_dim, hidden, 1.2, qkv_bias)
        matrix(p + "self_attn.o_proj", hidden, heads * head_dim, 1.2, attention_bias)
        if c["model_type"] == "qwen3":
            norm(p + "self_attn.q_norm", head_dim)
            norm(p + "self_attn.k_norm", head_dim)
        matrix(p + "mlp.gate_proj", inner, hidden, 1.2, mlp_bias)
        matrix(p + "mlp.up_proj", inner, hidden, 1.2, mlp_bias)
        matrix(p + "mlp.down_proj", hidden, inner, 1.2, mlp_bias)
    norm("model.norm", hidden)
    if not c.get("tie_word_embeddings", False):
        matrix("lm_head", vocab, hidden, 2.0)
    elif rng.random() < 0.2:  # some checkpoints repeat the tied head
        w["lm_head.weight"] = w["model.embed_tokens.weight"]
    return w


def write_random_checkpoint(folder, rng):
    """Fills `folder` and returns its configuration."""
    folder = pathlib.Path(folder)
    config, dtype = random_config(rng)
    weights = random_weights(rng, config)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shards = int(rng.integers(1, 4))
    if shards == 1:
        reference_model.write_safetensors(folder / "model.safetensors", weights, dtype)
        return config
    names = list(weights)
    index = {}
    for s in range(shards):
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[s::shards]}
        reference_model.write_safetensors(folder / file, part, dtype)
        index.update({name: file for name in part})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return config


def random_prompts(rng, config, count, longest=300):
    """Prompts of 1 to `longest` tokens, one of them of one token and one of `longest`."""
    lengths = [1, longest] + [int(np.exp(rng.uniform(0, np.log(longest)))) for _ in range(count - 2)]
    return [rng.integers(0, config["vocab_size"], max(n, 1)).tolist() for n in lengths[:count]]
