"""Writes a random GGUF model, and beside it the same model as a Hugging Face folder of its dequantized weights.

The engine reads the one and an oracle the other. Every tensor draws its own type from those that its row length allows.
Names, keys and the row order of q and k follow llama.cpp's converter.
"""

import json
import pathlib

import gguf
import numpy as np

import reference_model
from random_checkpoint import random_config, random_weights

Type = gguf.GGMLQuantizationType
UNQUANTIZED = [Type.F32, Type.F16, Type.BF16]
BLOCKS_OF_32 = [Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1]
BLOCKS_OF_256 = [Type.Q4_K, Type.Q5_K, Type.Q6_K]
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    base, kind = name.rsplit(".", 1)
    if not base.startswith("model.layers."):
        return f"{NAMES[base]}.{kind}"
    _, _, layer, part = base.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.{kind}"


def k_blocks(rng, kind, shape, deviation):
    """Random blocks of a K type whose values have mean near 0 and about this standard deviation: random bytes, but for the
    scales. The gguf package reads these types and does not write them."""
    rows, bytes_a_block = int(np.prod(shape)) // 256, gguf.GGML_QUANT_SIZES[kind][1]
    blocks = rng.integers(0, 256, (rows, bytes_a_block), dtype=np.uint8)
    scale = 1.0
    for _ in range(2):  # once to measure, once to set
        def half(value):
            return np.frombuffer(np.float16(value).tobytes(), np.uint8)
        if kind == Type.Q6_K:  # ql, qh, scales, d
            blocks[:, 208:210] = half(scale)
        else:  # d, dmin, scales, (qh,) qs: the minimum takes the mean quant away
            blocks[:, 0:2] = half(scale)
            blocks[:, 2:4] = half(scale * (7.5 if kind == Type.Q4_K else 15.5))
        data = blocks.reshape(*shape[:-1], -1)
        measured = gguf.quants.dequantize(data, kind).std()
        scale *= deviation / measured
    return data


def quantize(rng, array, kind):
    """(bytes as GGUF holds them, the float32 values they stand for)"""
    array = array.astype(np.float32)
    if kind in BLOCKS_OF_256:
        data = k_blocks(rng, kind, array.shape, array.std())
    else:
        data = gguf.quants.quantize(array, kind)
    return data, gguf.quants.dequantize(data, kind)


def permute(array, heads):
    """Rows of q or k: rotary pairs (i, i + head_dim / 2) become neighbours, as llama.cpp wants them for llama."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def unpermute(array, heads):
    return array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def gguf_config(rng):
    """A random configuration that GGUF can say, with rows long enough for blocks in most tensors."""
    while True:
        c, _ = random_config(rng)
        if c["model_type"] == "mistral":
            continue
        c.pop("layer_types", None)
        if c["model_type"] != "llama":
            c["use_sliding_window"] = False
        c.setdefault("rope_parameters", {"rope_theta": c.pop("rope_theta", 10000.0), **(c.pop("rope_scaling", None) or {})})
        rope = c["rope_parameters"]
        rope.setdefault("rope_type", rope.pop("type", "default"))
        rope.pop("attention_factor", None)  # GGUF's factor means something else
        if rope["rope_type"] == "llama3" and c["model_type"] != "llama":
            continue
        heads = c["num_attention_heads"]
        c.setdefault("num_key_value_heads", heads)
        unit = int(rng.choice([32, 256]))
        c["hidden_size"] = unit * int(rng.integers(1, 5 if unit == 32 else 2))
        c["intermediate_size"] = unit * int(rng.integers(1, 5 if unit == 32 else 3))
        c["head_dim"] = int(rng.choice([8, 16, 32, 64])) if heads <= 8 else 8
        c["num_hidden_layers"] = min(c["num_hidden_layers"], 3)
        if c["model_type"] == "llama" and c["hidden_size"] % heads:
            continue  # transformers refuses it
        c["torch_dtype"] = c["dtype"] = "float32"
        return c


def write_metadata(writer, c):
    rope = c["rope_parameters"]
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_key_length(c["head_dim"])
    writer.add_value_length(c["head_dim"])
    writer.add_rope_dimension_count(c["head_dim"])
    writer.add_layer_norm_rms_eps(c.get("rms_norm_eps", 1e-6))
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for key, add in (("beta_fast", writer.add_rope_scaling_yarn_beta_fast),
                         ("beta_slow", writer.add_rope_scaling_yarn_beta_slow)):
            if key in rope:
                add(rope[key])
    if rope["rope_type"] == "llama3":  # the frequencies' divisors
        plain = reference_model.inverse_frequencies({"rope_theta": rope["rope_theta"]}, c["head_dim"])[0]
        scaled = reference_model.inverse_frequencies(c, c["head_dim"])[0]
        writer.add_tensor("rope_freqs.weight", (plain / scaled).astype(np.float32))


def write_random_gguf(folder, rng, only=None):
    """Writes folder/model.gguf and folder/hf; returns the configuration and the names of the types used. only: this type
    wherever rows are long enough."""
    folder = pathlib.Path(folder)
    c = gguf_config(rng)
    writer = gguf.GGUFWriter(str(folder / "model.gguf"), c["model_type"])
    write_metadata(writer, c)
    dequantized, used = {}, set()
    for name, array in random_weights(rng, c).items():
        heads = c["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
        permuted = c["model_type"] == "llama" and ("q_proj" in name or "k_proj" in name)
        kind = Type.F32
        if array.ndim == 2:
            columns = array.shape[1]
            kinds = UNQUANTIZED + (BLOCKS_OF_32 * 2 if columns % 32 == 0 else []) + (
                BLOCKS_OF_256 * 4 if columns % 256 == 0 else [])
            kind = only if only in kinds else kinds[rng.integers(len(kinds))]
        stored = permute(array, heads) if permuted else array
        data, values = quantize(rng, stored, kind)
        if name == "lm_head.weight" and c.get("tie_word_embeddings"):
            continue  # random_weights repeats a tied head now and then
        used.add(kind.name)
        writer.add_tensor(gguf_name(name), data, raw_dtype=None if kind in (Type.F32, Type.F16) else kind)
        dequantized[name] = unpermute(values, heads) if permuted else values
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "hf").mkdir()
    reference_model.write_safetensors(folder / "hf" / "model.safetensors", dequantized, "F32")
    (folder / "hf" / "config.json").write_text(json.dumps(c, indent=1) + "\n")
    return c, sorted(used)
