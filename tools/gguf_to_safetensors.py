#!/usr/bin/env python3
"""Writes a GGUF model out as a Hugging Face checkpoint folder: weights dequantized to float32, config.json, and the tokenizer
if transformers can rebuild it. An oracle for tests: the folder and the .gguf are the same model, read by other code.

    python tools/gguf_to_safetensors.py MODEL.gguf FOLDER [--no-tokenizer]

Architectures llama (also Mistral), qwen2 and qwen3. Needs numpy, gguf and safetensors; transformers for the tokenizer.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import safetensors.numpy

TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
         "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def hf_name(name):
    base, kind = name.rsplit(".", 1)
    if base in TOP:
        return f"{TOP[base]}.{kind}"
    if base.startswith("blk."):
        _, layer, part = base.split(".")
        return f"model.layers.{layer}.{LAYER[part]}.{kind}"
    raise SystemExit(f"tensor {name}: no Hugging Face name is known for it")


def unpermute(rows, heads):
    """llama.cpp stores the rows of q and k so that rotary pairs are neighbours (2i, 2i + 1); Hugging Face keeps the halves of
    a head apart (i, i + head_dim / 2)."""
    head_dim = rows.shape[0] // heads
    return rows.reshape(heads, head_dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def convert(reader):
    """(config, tensors) of a gguf.GGUFReader."""
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.ggml.")}
    arch = fields["general.architecture"]
    if arch not in CLASSES:
        raise SystemExit(f"architecture {arch}: only {', '.join(CLASSES)} can be converted")

    def get(key, default=None):
        return fields.get(f"{arch}.{key}", default)

    heads = get("attention.head_count")
    kv_heads = get("attention.head_count_kv", heads)
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            raise SystemExit("tensor rope_freqs.weight: rotary frequencies of their own cannot be converted")
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        if arch == "llama" and ".attn_q." in tensor.name:
            values = unpermute(values, heads)
        if arch == "llama" and ".attn_k." in tensor.name:
            values = unpermute(values, kv_heads)
        tensors[hf_name(tensor.name)] = np.ascontiguousarray(values)

    embedding = tensors["model.embed_tokens.weight"]
    rope = {"rope_type": "default", "rope_theta": float(get("rope.freq_base", 10000.0))}
    scaling = get("rope.scaling.type", "none")
    if scaling == "linear":
        rope.update(rope_type="linear", factor=float(get("rope.scaling.factor")))
    elif scaling != "none":
        raise SystemExit(f"rope scaling {scaling} cannot be converted")
    config = {
        "architectures": [CLASSES[arch]],
        "model_type": arch,
        "hidden_act": "silu",
        "hidden_size": embedding.shape[1],
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": get("attention.key_length", embedding.shape[1] // heads),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": float(get("attention.layer_norm_rms_epsilon")),
        "rope_parameters": rope,
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        "dtype": "float32",
    }
    for ours in ("bos", "eos"):
        if f"tokenizer.ggml.{ours}_token_id" in reader.fields:
            config[f"{ours}_token_id"] = reader.fields[f"tokenizer.ggml.{ours}_token_id"].contents()
    if arch == "llama":
        config["attention_bias"] = "model.layers.0.self_attn.q_proj.bias" in tensors
        config["mlp_bias"] = False
    return config, tensors


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--no-tokenizer", action="store_true")
    args = parser.parse_args()
    config, tensors = convert(gguf.GGUFReader(args.model))
    args.folder.mkdir(parents=True, exist_ok=True)
    safetensors.numpy.save_file(tensors, args.folder / "model.safetensors", metadata={"format": "pt"})
    (args.folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if not args.no_tokenizer:
        import transformers

        transformers.AutoTokenizer.from_pretrained(args.model.parent, gguf_file=args.model.name).save_pretrained(args.folder)


if __name__ == "__main__":
    main()
