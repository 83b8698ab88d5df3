"""Makes the small tokenizers of tests/data/tokenizer, and what Hugging Face's `tokenizers` does with them.

Usage: python tools/make_tokenizer_fixtures.py        (needs `tokenizers`; writes tests/data/tokenizer/*.json)

A fixture is {"tokenizer": the tokenizer.json, "cases": [{"hex": bytes, "ids": [...], "text": decoded, "skipped": decoded without
special tokens}], "decode": [{"ids": [...], "text": ..., "skipped": ...}]}.
"""

import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))
import test_tokenizer as families  # noqa: E402


def shrink(tokenizer, merges):
    """The same tokenizer with its first merges only."""
    state = json.loads(tokenizer.to_str())
    model = state["model"]
    model["merges"] = model["merges"][:merges]
    made = {m[0] + m[1] if isinstance(m, list) else m.replace(" ", "") for m in model["merges"]}
    kept = [t for t in sorted(model["vocab"], key=model["vocab"].get)
            if len(t) == 1 or t in made or t.startswith("<0x") or t in ("<unk>", "<s>", "</s>")]
    model["vocab"] = {t: i for i, t in enumerate(kept)}
    for i, token in enumerate(t for t in state["added_tokens"]):
        token["id"] = model["vocab"].get(token["content"], len(kept) + i)
    return families.Tokenizer.from_str(json.dumps(state))


def main():
    out = ROOT / "tests" / "data" / "tokenizer"
    out.mkdir(parents=True, exist_ok=True)
    for name in ("gpt2", "qwen2", "smollm", "llama2", "gemma"):
        rng = random.Random(name)
        tokenizer = shrink(getattr(families, name)(), 250)
        inputs = [s.encode() for s in families.SENTENCES] + [b"", b" ", b"\xff\xfe", b"a" * 500]
        inputs += [families.random_bytes(rng) for _ in range(40)]
        cases = []
        for data in inputs:
            ids = tokenizer.encode(data.decode("utf-8", errors="replace")).ids
            cases.append({"hex": data.hex(), "ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False),
                          "skipped": tokenizer.decode(ids)})
        decode = []
        for _ in range(60):
            ids = [rng.randrange(tokenizer.get_vocab_size() + 2) for _ in range(rng.randrange(1, 20))]
            decode.append({"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False), "skipped": tokenizer.decode(ids)})
        fixture = {"tokenizer": json.loads(tokenizer.to_str()), "cases": cases, "decode": decode}
        (out / f"{name}.json").write_text(json.dumps(fixture, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
