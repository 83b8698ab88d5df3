#!/usr/bin/env python3
"""Writes the seeds of the format fuzzers: fuzz/corpus/gguf and fuzz/corpus/safetensors. Small valid files with a key and a
tensor of every kind. Needs nothing but Python.
"""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).resolve().parents[1] / "fuzz" / "corpus"
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
         "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
         "Q6_K": (14, 256, 210), "BF16": (30, 1, 2)}


def text(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_keys(version):
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    for number, code in SCALARS.items():
        keys.append(text(f"k.{number}") + struct.pack("<I" + code, number, 1))
        keys.append(text(f"a.{number}") + struct.pack("<IIQ" + code * 3, 9, number, 3, 1, 0, 1))
    keys.append(text("tokens") + struct.pack("<IIQ", 9, 8, 3) + text("<s>") + text("") + text("ä"))
    return b"GGUF" + struct.pack("<I", version), keys


def gguf(version, tensors, alignment=None):
    head, keys = gguf_keys(version)
    if alignment:
        keys.append(text("general.alignment") + struct.pack("<II", 4, alignment))
    alignment = alignment or 32
    infos, data = b"", b""
    for name, shape in tensors:
        number, block, size = TYPES[name]
        data += bytes(-len(data) % alignment)
        infos += text(f"blk.0.{name}") + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", number, len(data))
        elements = 1
        for n in shape:
            elements *= n
        data += bytes(i % 251 for i in range(elements // block * size))
    out = head + struct.pack("<QQ", len(tensors), len(keys)) + b"".join(keys) + infos
    return out + bytes(-len(out) % alignment) + data


def safetensors(entries, metadata=True):
    sizes = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U8": 1}
    header, at = {"__metadata__": {"format": "pt"}} if metadata else {}, 0
    for i, (dtype, shape) in enumerate(entries):
        size = sizes[dtype]
        for n in shape:
            size *= n
        header[f"layers.{i}.weight"] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    body = json.dumps(header).encode()
    body += b" " * (-len(body) % 8)
    return struct.pack("<Q", len(body)) + body + bytes(i % 251 for i in range(at))


def main():
    seeds = {
        "gguf/every-type": gguf(3, [(name, [block]) for name, (_, block, _) in TYPES.items()]),
        "gguf/version-2": gguf(2, [("F32", [3, 2])]),
        "gguf/dimensions": gguf(3, [("Q4_1", [32, 2, 1, 2]), ("F16", [5])], alignment=64),
        "gguf/vocabulary": gguf(3, []),
        "safetensors/every-type": safetensors([("F32", [2, 2]), ("F16", [3]), ("BF16", [1, 1, 2]), ("I64", [1]), ("U8", [3])]),
        "safetensors/empty": safetensors([], metadata=False),
        "safetensors/scalars": safetensors([("F32", []), ("BF16", [0, 4]), ("F16", [1])]),
    }
    for name, data in seeds.items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
