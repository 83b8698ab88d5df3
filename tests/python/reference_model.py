"""A decoder in plain NumPy: the second oracle, independent of the engine and of transformers.

Llama, Qwen2, Qwen3 and Mistral in about a hundred lines of float64, one sequence at a time, no cache, no batching. It is
checked against transformers through the golden files, and then checks the engine on shapes nobody has seen before. Also
here: reading and writing safetensors by hand (https://huggingface.co/docs/safetensors).
"""

import json
import math
import pathlib
import struct

import numpy as np


# ---- safetensors -----------------------------------------------------------------------------------------------------
def to_bytes(array, dtype):
    """float32 values as the bytes of `dtype` (F32, F16 or BF16, round to nearest even)."""
    array = np.ascontiguousarray(array, np.float32)
    if dtype == "F32":
        return array.tobytes()
    if dtype == "F16":
        return array.astype(np.float16).tobytes()
    bits = array.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def from_bytes(data, dtype):
    if dtype == "F32":
        return np.frombuffer(data, np.float32)
    if dtype == "F16":
        return np.frombuffer(data, np.float16).astype(np.float32)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def write_safetensors(path, tensors, dtype):
    header, blobs, offset = {}, [], 0
    for name, array in tensors.items():
        blob = to_bytes(array, dtype)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length:]
    return {name: from_bytes(body[slice(*entry["data_offsets"])], entry["dtype"]).reshape(entry["shape"])
            for name, entry in header.items()}


# ---- the model -------------------------------------------------------------------------------------------------------
def inverse_frequencies(config, head_dim):
    """Rotary frequencies [head_dim / 2] and the factor on cos and sin, after transformers' modeling_rope_utils."""
    rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    base = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    frequency = 1.0 / base ** (np.arange(0, head_dim, 2) / head_dim)
    if kind == "default":
        return frequency, 1.0
    factor = rope["factor"]
    if kind == "linear":
        return frequency / factor, 1.0
    original = rope.get("original_max_position_embeddings", config["max_position_embeddings"])
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        out = []
        for f in frequency:
            wavelength = 2 * math.pi / f
            if wavelength < original / high:
                out.append(f)
            elif wavelength > original / low:
                out.append(f / factor)
            else:
                smooth = (original / wavelength - low) / (high - low)
                out.append((1 - smooth) * f / factor + smooth * f)
        return np.array(out), 1.0
    assert kind == "yarn", kind

    def dimension(rotations):
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(rope.get("beta_fast") or 32), dimension(rope.get("beta_slow") or 1)
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(head_dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)

    def mscale(m):
        return 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0

    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        both = rope.get("mscale") and rope.get("mscale_all_dim")
        attention_factor = mscale(rope["mscale"]) / mscale(rope["mscale_all_dim"]) if both else mscale(1)
    return frequency / factor * ramp + frequency * (1 - ramp), attention_factor


def rms_norm(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


class ReferenceModel:
    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.config = json.loads((folder / "config.json").read_text())
        self.w = {}
        for path in sorted(folder.glob("*.safetensors")):
            self.w.update({name: a.astype(np.float64) for name, a in read_safetensors(path).items()})
        c = self.config
        self.heads = c["num_attention_heads"]
        self.kv_heads = c.get("num_key_value_heads") or self.heads
        self.head_dim = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c.get("rms_norm_eps", 1e-6)
        self.frequency, self.rope_factor = inverse_frequencies(c, self.head_dim)

    def window(self, layer):
        """Keys a query of this layer sees, itself included; 0 for all."""
        c = self.config
        if c["model_type"] == "mistral":
            return c.get("sliding_window") or 0
        if c.get("layer_types"):
            return c["sliding_window"] if c["layer_types"][layer] == "sliding_attention" else 0
        windowed = c.get("use_sliding_window") and layer >= c.get("max_window_layers", 28)
        return (c.get("sliding_window") or 0) if windowed else 0

    def linear(self, x, name):
        y = x @ self.w[name + ".weight"].T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def rotate(self, x):
        """x [T, heads, head_dim]; pairs are (i, i + head_dim / 2)."""
        angle = np.outer(np.arange(len(x)), self.frequency)[:, None, :]
        cos, sin = np.cos(angle) * self.rope_factor, np.sin(angle) * self.rope_factor
        a, b = np.split(x, 2, -1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def attention(self, x, prefix, window):
        t = len(x)
        q = self.linear(x, prefix + "q_proj").reshape(t, self.heads, self.head_dim)
        k = self.linear(x, prefix + "k_proj").reshape(t, self.kv_heads, self.head_dim)
        v = self.linear(x, prefix + "v_proj").reshape(t, self.kv_heads, self.head_dim)
        if prefix + "q_norm.weight" in self.w:
            q = rms_norm(q, self.w[prefix + "q_norm.weight"], self.eps)
            k = rms_norm(k, self.w[prefix + "k_norm.weight"], self.eps)
        q, k = self.rotate(q), self.rotate(k)
        query, key = np.ogrid[:t, :t]
        visible = (key <= query) & (key > query - window if window else True)
        out = np.empty_like(q)
        for h in range(self.heads):
            group = h // (self.heads // self.kv_heads)
            scores = np.where(visible, q[:, h] @ k[:, group].T / math.sqrt(self.head_dim), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, h] = weights @ v[:, group] / weights.sum(-1, keepdims=True)
        return self.linear(out.reshape(t, -1), prefix + "o_proj")

    def logprobs(self, ids):
        """Log-probabilities [T, vocab]: row i is the distribution after ids[:i + 1]."""
        x = self.w["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            x = x + self.attention(rms_norm(x, self.w[p + "input_layernorm.weight"], self.eps), p + "self_attn.",
                                   self.window(layer))
            h = rms_norm(x, self.w[p + "post_attention_layernorm.weight"], self.eps)
            gate, up = self.linear(h, p + "mlp.gate_proj"), self.linear(h, p + "mlp.up_proj")
            x = x + self.linear(gate / (1 + np.exp(-gate)) * up, p + "mlp.down_proj")
        x = rms_norm(x, self.w["model.norm.weight"], self.eps)
        tied = self.config.get("tie_word_embeddings", False)
        logits = x @ self.w["model.embed_tokens.weight" if tied else "lm_head.weight"].T
        top = logits.max(-1, keepdims=True)
        return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))

    def score(self, ids):
        rows = self.logprobs(ids)
        return [float(rows[i, t]) for i, t in enumerate(ids[1:])]

    def greedy(self, ids, steps):
        """Tokens, and best minus second best logprob, step by step."""
        ids, gaps = list(ids), []
        start = len(ids)
        for _ in range(steps):
            row = self.logprobs(ids)[-1]
            second, best = np.argsort(row)[-2:]
            ids.append(int(best))
            gaps.append(float(row[best] - row[second]))
        return ids[start:], gaps
