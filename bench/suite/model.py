"""The model of the comparison: random weights in the shape of Qwen3-0.6B, the same values for every engine.

    python model.py FOLDER [VOCABULARY.gguf]      (needs numpy, and gguf for the second)

Speed does not depend on the values. Writes a Hugging Face folder (config.json, model.safetensors, no tokenizer: the engine
then runs on token ids) and, given the vocabulary, the same tensors as FOLDER/model-BF16.gguf, with the tokenizer of llama.cpp's vocabulary file,
without which its server and OpenVINO GenAI do not start.
"""

import json
import pathlib
import struct
import sys

import numpy as np

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "dtype": "bfloat16",
    "vocab_size": 151936, "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 40960, "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False, "use_sliding_window": False,
    "bos_token_id": 151643, "eos_token_id": 151645,
}


def tensors():
    """(Hugging Face's name, GGUF's name, shape) in the order of the file."""
    hidden, inner, size = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["head_dim"]
    q, kv = CONFIG["num_attention_heads"] * size, CONFIG["num_key_value_heads"] * size
    yield "model.embed_tokens.weight", "token_embd.weight", (CONFIG["vocab_size"], hidden)
    for i in range(CONFIG["num_hidden_layers"]):
        for ours, theirs, shape in (
                ("input_layernorm", "attn_norm", (hidden,)), ("self_attn.q_proj", "attn_q", (q, hidden)),
                ("self_attn.k_proj", "attn_k", (kv, hidden)), ("self_attn.v_proj", "attn_v", (kv, hidden)),
                ("self_attn.q_norm", "attn_q_norm", (size,)), ("self_attn.k_norm", "attn_k_norm", (size,)),
                ("self_attn.o_proj", "attn_output", (hidden, q)), ("post_attention_layernorm", "ffn_norm", (hidden,)),
                ("mlp.gate_proj", "ffn_gate", (inner, hidden)), ("mlp.up_proj", "ffn_up", (inner, hidden)),
                ("mlp.down_proj", "ffn_down", (hidden, inner))):
            yield f"model.layers.{i}.{ours}.weight", f"blk.{i}.{theirs}.weight", shape
    yield "model.norm.weight", "output_norm.weight", (hidden,)


def values(rng, shape):
    """bfloat16 bits: ones for a norm, else normal with deviation 0.02, rounded towards zero."""
    if len(shape) == 1:
        return np.full(shape, 0x3F80, np.uint16)
    return ((rng.standard_normal(shape, np.float32) * np.float32(0.02)).view(np.uint32) >> 16).astype(np.uint16)


def write_folder(folder):
    """Returns the bits of every tensor, mapped from the file."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, _, shape in tensors():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path = folder / "model.safetensors"
    rng = np.random.default_rng(0)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, shape in tensors():
            values(rng, shape).tofile(out)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": CONFIG["eos_token_id"]}) + "\n")
    data = np.memmap(path, np.uint16, "r", 8 + len(text))
    return {name: data[d["data_offsets"][0] // 2:d["data_offsets"][1] // 2].reshape(d["shape"])
            for name, d in header.items() if name != "__metadata__"}


def copy_tokenizer(vocabulary, writer):
    """The tokenizer's fields, its tokens padded to the model's vocabulary."""
    import gguf

    fields = gguf.GGUFReader(vocabulary).fields
    get = lambda key: fields[f"tokenizer.ggml.{key}"].contents()  # noqa: E731
    tokens, types = get("tokens"), get("token_type")
    padding = range(len(tokens), CONFIG["vocab_size"])
    writer.add_tokenizer_model(get("model"))
    writer.add_tokenizer_pre(get("pre"))
    writer.add_token_list(tokens + [f"[PAD{i}]" for i in padding])
    writer.add_token_types(list(types) + [int(gguf.TokenType.UNUSED)] * len(padding))
    writer.add_token_merges(get("merges"))
    writer.add_bos_token_id(CONFIG["bos_token_id"])
    writer.add_eos_token_id(CONFIG["eos_token_id"])
    writer.add_add_bos_token(False)


def write_gguf(path, bits, vocabulary):
    import gguf

    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name("random weights in the shape of Qwen3-0.6B")
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_key_length(CONFIG["head_dim"])
    writer.add_value_length(CONFIG["head_dim"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    writer.add_vocab_size(CONFIG["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    copy_tokenizer(vocabulary, writer)
    for name, theirs, shape in tensors():
        if len(shape) == 1:
            writer.add_tensor(theirs, (bits[name].astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(theirs, bits[name].view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    bits = write_folder(folder)
    if len(sys.argv) > 2:
        write_gguf(folder / "model-BF16.gguf", bits, sys.argv[2])


if __name__ == "__main__":
    main()
