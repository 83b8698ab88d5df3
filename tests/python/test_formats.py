"""The readers of src/formats against the packages that define the formats: gguf and safetensors.

Fresh random files every run (the seed is printed on failure), read by tests/dump_tensors and compared bit for bit.
"""
import json
import os
import pathlib
import random
import subprocess
import sys

import gguf
import numpy as np
import pytest
import safetensors

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import make_quantization_golden as golden  # noqa: E402

DUMP = ROOT / os.environ.get("NANO_VLLM_BUILD", "build/release") / "tests" / "dump_tensors"
SEED = int(os.environ.get("NANO_VLLM_TEST_SEED", random.SystemRandom().randrange(1 << 30)))


def dump(path, tmp_path):
    """{name: (dtype, shape, float32 bits)}, or the error line."""
    out = tmp_path / "values.bin"
    done = subprocess.run([DUMP, str(path), str(out)], capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        assert done.returncode == 1, (done.returncode, done.stderr[-2000:])
        return done.stderr.strip()
    values, at, tensors = np.fromfile(out, np.uint32), 0, {}
    for line in map(json.loads, done.stdout.splitlines()):
        count = int(np.prod(line["shape"], dtype=np.int64))
        tensors[line["name"]] = (line["dtype"], tuple(line["shape"]), values[at:at + count])
        at += count
    assert at == values.size
    return tensors


@pytest.mark.parametrize("name", golden.TYPES)
def test_gguf_types_dequantize_bit_for_bit(name, tmp_path):
    rng = np.random.default_rng(SEED)
    block, _ = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_custom_alignment(int(rng.choice([8, 32, 64, 256])))
    expected = {}
    for i in range(20):
        shape = [int(rng.integers(1, 6)) for _ in range(rng.integers(0, 4))] + [block * int(rng.integers(1, 9))]
        data = golden.random_blocks(rng, name, int(np.prod(shape)))
        expected[f"t.{i}"] = (name, tuple(shape), golden.dequantize(name, data).reshape(-1).view(np.uint32))
        rows = np.ascontiguousarray(data).reshape(*shape[:-1], -1)
        if name == "F32":
            rows = rows.view(np.float32)
        elif name == "F16":
            rows = rows.view(np.float16)
        raw = None if name in ("F32", "F16") else gguf.GGMLQuantizationType[name]
        writer.add_tensor(f"t.{i}", rows, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors = dump(tmp_path / "m.gguf", tmp_path)
    assert isinstance(tensors, dict), (SEED, tensors)
    assert tensors.keys() == expected.keys()
    for key, (dtype, shape, bits) in expected.items():
        assert tensors[key][:2] == (dtype, shape), (SEED, key)
        assert np.array_equal(tensors[key][2], bits), (SEED, key)


def random_tensors(rng):
    """{name: (dtype, shape, bytes, float32 bits)}"""
    tensors = {}
    for i in range(25):
        shape = [int(rng.integers(0, 7)) for _ in range(rng.integers(0, 4))]
        values = rng.standard_normal(shape).astype(np.float32)
        dtype = ("F32", "F16", "BF16")[i % 3]
        if dtype == "F32":
            data, bits = values.tobytes(), values.view(np.uint32)
        elif dtype == "F16":
            half = values.astype(np.float16)
            data, bits = half.tobytes(), half.astype(np.float32).view(np.uint32)
        else:
            upper = values.view(np.uint32) >> 16
            data, bits = upper.astype(np.uint16).tobytes(), upper << 16
        tensors[f"layer.{i}.weight"] = (dtype, tuple(shape), data, np.asarray(bits, np.uint32).reshape(-1))
    return tensors


def serialize(tensors):
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    buffers = {name: np.frombuffer(data, np.uint8) for name, (_, _, data, _) in tensors.items()}  # alive until the end
    specs = {name: safetensors.TensorSpec(dtype=names[dtype], shape=list(shape), data_ptr=buffers[name].ctypes.data,
                                          data_len=buffers[name].size)
             for name, (dtype, shape, _, _) in tensors.items()}
    return safetensors.serialize(specs, {"format": "pt"})


def check_safetensors(tensors, found):
    assert isinstance(found, dict), (SEED, found)
    assert found.keys() == tensors.keys()
    for name, (dtype, shape, _, bits) in tensors.items():
        assert found[name][:2] == (dtype, shape), (SEED, name)
        assert np.array_equal(found[name][2], bits), (SEED, name)


def test_safetensors_single(tmp_path):
    tensors = random_tensors(np.random.default_rng(SEED))
    (tmp_path / "model.safetensors").write_bytes(serialize(tensors))
    check_safetensors(tensors, dump(tmp_path, tmp_path))


def shard(tensors, folder, rng, shards=3):
    place = {name: f"model-{rng.integers(1, shards + 1):05}-of-{shards:05}.safetensors" for name in tensors}
    for file in set(place.values()):
        (folder / file).write_bytes(serialize({n: t for n, t in tensors.items() if place[n] == file}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))
    return place


def test_safetensors_sharded(tmp_path):
    rng = np.random.default_rng(SEED)
    tensors = random_tensors(rng)
    shard(tensors, tmp_path, rng)
    check_safetensors(tensors, dump(tmp_path, tmp_path))


def test_safetensors_index_that_disagrees_with_its_shards(tmp_path):
    rng = np.random.default_rng(SEED)
    tensors = random_tensors(rng)
    place = shard(tensors, tmp_path, rng)
    index = tmp_path / "model.safetensors.index.json"
    name = next(iter(place))

    def with_map(changes, drop=()):
        changed = {k: v for k, v in {**place, **changes}.items() if k not in drop}
        index.write_text(json.dumps({"weight_map": changed}))
        error = dump(tmp_path, tmp_path)
        assert isinstance(error, str), error
        return error

    assert "'lm_head.weight'" in with_map({"lm_head.weight": place[name]})
    assert f"'{name}'" in with_map({}, drop=(name,))
    assert f"'{name}'" in with_map({name: next(v for v in place.values() if v != place[name])})
    assert "no such file" in with_map({name: "model-00000-of-00003.safetensors"})
    for bad in ("../" + place[name], str(tmp_path / place[name]), "..", "", "a\\b", "x\0.safetensors"):
        assert "not a plain file name" in with_map({name: bad}), bad
    index.write_text("{}")
    assert "weight_map" in dump(tmp_path, tmp_path)


def test_files_that_safetensors_refuses_are_refused(tmp_path):
    """Random damage: whatever the reference reader refuses is refused here too, and what it reads reads the same."""
    rng = np.random.default_rng(SEED)
    whole = serialize({"a": ("F32", (3, 5), np.ones(15, np.float32).tobytes(), None), "b": ("BF16", (4,), bytes(8), None)})
    header = int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 3))):
            data[int(rng.integers(0, header + 8))] = int(rng.choice(list(b'0123456789[]{}":,abF \x00\xff')))
        path = tmp_path / "m.safetensors"
        path.write_bytes(data)
        found = dump(path, tmp_path)
        try:
            with safetensors.safe_open(path, "np") as reference:
                shapes = {k: (reference.get_slice(k).get_dtype(), tuple(reference.get_slice(k).get_shape()))
                          for k in reference.keys()}
        except safetensors.SafetensorError:
            refused += 1
            assert isinstance(found, str) and found.startswith(str(path)), (SEED, bytes(data))
            continue
        if isinstance(found, dict):  # a key given twice, and types that are skipped, are this reader's own
            assert {k: v[:2] for k, v in found.items()}.items() <= shapes.items(), (SEED, bytes(data))
    assert refused > 10


@pytest.mark.parametrize("content,reason", [(b"", "0 bytes"), (b"GGUF", "ends inside"), (b"XXXXXXXX", "not a GGUF"),
                                            (b"GGUF\0\0\0\3" + bytes(16), "big-endian"),
                                            (b"GGUF\1\0\0\0" + bytes(16), "version 1")])
def test_messages_about_bad_gguf_files(content, reason, tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    error = dump(path, tmp_path)
    assert error.startswith(str(path)) and reason in error


def test_split_gguf_is_refused_by_name(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert "split into 3 files" in dump(tmp_path / "m.gguf", tmp_path)


def test_paths_that_are_no_files(tmp_path):
    (tmp_path / "d.gguf").mkdir()
    os.mkfifo(tmp_path / "p.gguf")
    assert "is a folder" in dump(tmp_path / "d.gguf", tmp_path)
    assert "not a regular file" in dump(tmp_path / "p.gguf", tmp_path)
    assert "no such file" in dump(tmp_path / "none.gguf", tmp_path)
    assert "neither model.safetensors nor" in dump(tmp_path, tmp_path)
