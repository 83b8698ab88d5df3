#!/usr/bin/env python3
"""Writes tests/data/quantization_golden.json: a row of random blocks of every GGUF type, and what the gguf package's
dequantize makes of it, as hex. Needs numpy and gguf.
"""
import json
import pathlib

import gguf
import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data" / "quantization_golden.json"
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
ELEMENTS = 256
# Where a block keeps half-precision numbers; random bytes there could be NaN, whose bits readers may change.
HALVES = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208]}


def random_blocks(rng, name, elements):
    """Random bytes of a row: [elements / block, bytes of a block]."""
    quant = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[quant]
    count = elements // block
    if name == "F32":
        return rng.standard_normal((count, 1)).astype(np.float32).view(np.uint8)
    if name == "F16":  # every exponent, subnormal numbers and zeros among them
        bits = rng.integers(0, 0x7C00, (count, 1)) | rng.integers(0, 2, (count, 1)) << 15
        return bits.astype(np.uint16).view(np.uint8)
    if name == "BF16":
        bits = rng.integers(0, 0x7F80, (count, 1)) | rng.integers(0, 2, (count, 1)) << 15
        return bits.astype(np.uint16).view(np.uint8)
    data = rng.integers(0, 256, (count, size)).astype(np.uint8)
    for at in HALVES[name]:
        bits = rng.integers(0, 0x7C00, (count, 1)) | rng.integers(0, 2, (count, 1)) << 15
        data[:, at:at + 2] = bits.astype(np.uint16).view(np.uint8)
    return data


def dequantize(name, data):
    return gguf.quants.dequantize(data.reshape(-1), gguf.GGMLQuantizationType[name]) if name not in (
        "F32", "F16") else data.reshape(-1).view({"F32": np.float32, "F16": np.float16}[name]).astype(np.float32)


def main():
    rng = np.random.default_rng(20240)
    golden = {}
    for name in TYPES:
        data = random_blocks(rng, name, ELEMENTS)
        values = dequantize(name, data)
        assert values.dtype == np.float32 and values.size == ELEMENTS
        golden[name] = {"row": data.tobytes().hex(), "float32": values.tobytes().hex()}
    OUT.write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
