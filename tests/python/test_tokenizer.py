"""nano-vllm's tokenizer against Hugging Face's `tokenizers`: the same ids and the same text, on more than 100,000 strings.

Small vocabularies of every family are trained here, saved as tokenizer.json, and read by both. The C++ side is the test tool
tokenize_lines of the build directory $NANO_VLLM_BUILD (build/release if unset).
"""

import json
import os
import pathlib
import random
import subprocess
import sysconfig
import unicodedata

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers.pre_tokenizers import ByteLevel, Digits, Metaspace, Punctuation, Sequence, Split

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("NANO_VLLM_BUILD", ROOT / "build" / "release"))
TOOL = BUILD / "tests" / "tokenize_lines"
STRINGS = int(os.environ.get("NANO_VLLM_TOKENIZER_STRINGS", "7200"))  # a family

SENTENCES = [
    "The quick brown fox doesn't jump over the lazy dog; it's 12,345.67 metres away, we'll see!",
    "Привет, мир! Как дела у тебя сегодня? Ёлка стоит в лесу.", "Γειά σου Κόσμε, τι κάνεις σήμερα;",
    "你好，世界！今天天气怎么样？我们去公园吧。", "こんにちは世界。カタカナとひらがな、漢字。ｶﾀｶﾅ ガ", "안녕하세요 세계, 오늘은 어떠세요? 한글",
    "مرحبا بالعالم كيف حالك اليومَ ١٢٣", "שלום עולם, מה שלומך היום?", "नमस्ते दुनिया, आप कैसे हैं? क्षत्रिय १२३",
    "สวัสดีชาวโลก วันนี้เป็นอย่างไรบ้าง", "Xin chào thế giới, hôm nay thế nào?", "Ünïcödé naïve façade ﬁne ﬂow ½ ² Ⅷ ①",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪🇫🇷 ❤️ 🏳️‍🌈 1️⃣ 🧑🏿‍🚀", "e\u0301 a\u0308\u0323 o\u031b\u0301 \u1100\u1161\u11a8 \u212b \u2126 \u0344",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # comment\n\n\tif __name__ == '__main__':\r\n", "I'M YOU'RE they've HE'LL she'd ſ'ſ ‘s K'K",
    "<s> </s> <unk> <0x41> <0xE4><|im_start|>user\n<|im_end|> [INST] <|end <|endoftext|>s",
]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\u200b", "\u2028", "\u0085", "\u180e", "\v", "\f", "    "]
LOOK_ALIKES = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_end", "|>", "<0x0A>", "<0x", "word", "[X]",
               "<left>", "<right>", "<both>", "Norm", "\u2581", "\u2581\u2581", "\u0120"]


def real_text():
    """Source code and prose that every machine with Python has."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    return "".join((library / name).read_text(encoding="utf-8") for name in
                   ["argparse.py", "textwrap.py", "this.py", "heapq.py", "statistics.py", "locale.py", "turtle.py"])


TEXT = real_text()


def random_character(rng):
    kind = rng.random()
    if kind < 0.35:
        return chr(rng.randrange(0x20, 0x7F))
    if kind < 0.5:
        return chr(rng.randrange(0, 0x250))
    if kind < 0.6:
        return chr(rng.choice([rng.randrange(0x300, 0x370), rng.randrange(0x1100, 0x1200), rng.randrange(0x900, 0xE00)]))
    if kind < 0.7:
        return chr(rng.choice([rng.randrange(0x1F300, 0x1FB00), 0x200D, 0xFE0F, 0x1F3FD]))
    if kind < 0.8:
        return rng.choice(SPACES)
    if kind < 0.95:
        return chr(rng.randrange(0x250, 0xD800))
    return chr(rng.choice([rng.randrange(0xE000, 0x110000), rng.randrange(0x10000, 0x20000)]))


def known_everywhere(character):
    # Libraries carry different versions of Unicode; what Python 3.11's does not know is left to test_properties.
    return unicodedata.category(character) != "Cn"


def random_bytes(rng):
    """A string as the bytes a user sends, not always UTF-8."""
    kind = rng.random()
    if kind < 0.25:
        start = rng.randrange(len(TEXT) - 200)
        return TEXT[start:start + rng.randrange(1, 200)].encode()
    if kind < 0.4:
        words = [rng.choice(rng.choice(SENTENCES).split(" ")) for _ in range(rng.randrange(1, 12))]
        return rng.choice(SPACES).join(words).encode()
    if kind < 0.65:
        text = "".join(random_character(rng) for _ in range(rng.randrange(0, 40)))
        return "".join(filter(known_everywhere, text)).encode()
    if kind < 0.8:
        parts = [rng.choice([rng.choice(LOOK_ALIKES), rng.choice(SPACES), rng.choice(rng.choice(SENTENCES).split()), "a", "1", ""])
                 for _ in range(rng.randrange(1, 10))]
        return "".join(parts).encode()
    if kind < 0.9:
        return "".join(rng.choice(SPACES) * rng.randrange(1, 6) + rng.choice(["", "x", "1", "!", "é"])
                       for _ in range(rng.randrange(1, 6))).encode()
    broken = bytearray(rng.choice(SENTENCES).encode())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(broken))
        broken[at:at + rng.randrange(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randrange(0, 3)))
    return bytes(broken)


# ---------------------------------------------------------------------------------------------------------------------- families

GPT4_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + GPT4_TAIL
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + GPT4_TAIL
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def corpus():
    return [TEXT[i:i + 500] for i in range(0, min(len(TEXT), 200_000), 500)] + SENTENCES * 20


def trained(pre_tokenizer, normalizer=None, vocab_size=1500, alphabet=(), special=(), **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    affixes = {k: model[k] for k in ("continuing_subword_prefix", "end_of_word_suffix") if k in model}
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=list(alphabet), special_tokens=list(special), show_progress=False, **affixes))
    return tokenizer


def byte_level(*stages, normalizer=None, add_prefix_space=False, use_regex=False):
    tokenizer = trained(Sequence([*stages, ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)]), normalizer,
                        alphabet=ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def gpt2():
    return byte_level(use_regex=True)


def gpt2_prefix_space():
    return byte_level(use_regex=True, add_prefix_space=True)


def qwen2():
    return byte_level(Split(Regex(QWEN2), "isolated"), normalizer=normalizers.NFC())


def llama3():
    tokenizer = byte_level(Split(Regex(LLAMA3), "isolated"))
    tokenizer.add_special_tokens(["<s>"])
    state = json.loads(tokenizer.to_str())
    state["model"]["ignore_merges"] = True
    # A token that no merge makes, found whole only because merges are ignored.
    state["model"]["vocab"]["\u0120zzzq"] = tokenizer.get_vocab_size() + 1
    tokenizer = Tokenizer.from_str(json.dumps(state))
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", bos)])])
    return tokenizer


def smollm():
    return byte_level(Digits(individual_digits=True), use_regex=True)


def cl100k():
    return byte_level(Split(Regex(CL100K), "removed", invert=True))


def o200k():
    return byte_level(Split(Regex(O200K), "isolated"))


def falcon():
    tokenizer = trained(Sequence([Punctuation("contiguous"), ByteLevel(add_prefix_space=False), Digits(individual_digits=False),
                                  Split(Regex("[0-9][0-9][0-9]"), "isolated")]), alphabet=ByteLevel.alphabet())
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def deepseek():
    return byte_level(Split(Regex(r"\p{N}{1,3}"), "isolated"), Split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
                      Split(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
                                  r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"))


def sentencepiece(pre_tokenizer, normalizer, decoder, vocab_size=1500):
    """Llama 2 as converted: characters and merges, bytes for the rest."""
    base = trained(Metaspace(prepend_scheme="never"), vocab_size=vocab_size)
    state = json.loads(base.to_str())
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    # Rare letters stay out of the vocabulary, so that bytes are needed.
    dropped = {t for t in state["model"]["vocab"] if any(ord(c) > 0x3000 or c == "q" for c in t)}
    tokens = special + [t for t in sorted(state["model"]["vocab"], key=state["model"]["vocab"].get) if t not in dropped]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["model"]["merges"]]
    merges = [m for m in merges if m[0] not in dropped and m[1] not in dropped and m[0] + m[1] not in dropped]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, byte_fallback=True, fuse_unk=True,
                                     unk_token="<unk>"))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special[:3]])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return tokenizer


def llama2():
    return sentencepiece(None, normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
                         decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                            decoders.Strip(" ", 1, 0)]))


def llama2_metaspace():
    return sentencepiece(Metaspace(prepend_scheme="first", split=False), None,
                         decoders.Sequence([decoders.Metaspace(prepend_scheme="first"), decoders.ByteFallback(), decoders.Fuse()]))


def gemma():
    tokenizer = sentencepiece(Split(" ", "merged_with_previous"), normalizers.Replace(" ", "\u2581"),
                              decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]))
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<|im_start|>", normalized=False)])
    return tokenizer


def odd_unknown():
    """No bytes: unknown characters, word ends, and added tokens with every flag."""
    tokenizer = trained(Sequence([pre_tokenizers.Whitespace(), Punctuation("merged_with_previous")]),
                        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(),
                                              normalizers.Strip(), normalizers.Replace(Regex(r"\s{2,}"), " ")]),
                        special=["[UNK]"], unk_token="[UNK]", end_of_word_suffix="</w>", vocab_size=900)
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    tokenizer.add_tokens([AddedToken("<left>", lstrip=True, normalized=False), AddedToken("<right>", rstrip=True, normalized=False),
                          AddedToken("<both>", lstrip=True, rstrip=True), AddedToken("word", single_word=True),
                          AddedToken("Norm", normalized=True), AddedToken("<s>", special=True)])
    return tokenizer


def odd_prefix():
    tokenizer = trained(Sequence([pre_tokenizers.WhitespaceSplit(), Split(Regex(r"\d{2}+|[aeiou&&[^i]]"), "merged_with_next"),
                                  Split("the", "contiguous")]),
                        normalizers.NFKC(), special=["[UNK]"], unk_token="[UNK]", fuse_unk=True, continuing_subword_prefix="##",
                        vocab_size=900)
    tokenizer.add_special_tokens(["<s>", "</s>", "</s>s"])
    return tokenizer  # no decoder: tokens joined by spaces


FAMILIES = [gpt2, gpt2_prefix_space, qwen2, llama3, smollm, cl100k, o200k, falcon, deepseek, llama2, llama2_metaspace, gemma,
            odd_unknown, odd_prefix]


# ------------------------------------------------------------------------------------------------------------------------- tests

def ours(path, requests):
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    done = subprocess.run([TOOL, path], input=lines, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.split("\n") if line]
    assert len(answers) == len(requests)
    return answers


def encode_both(tokenizer, path, inputs, special=True):
    tokenizer.save(str(path))
    got = [a["ids"] for a in ours(path, [{"hex": b.hex(), "special": special} for b in inputs])]
    texts = [b.decode("utf-8", errors="replace") for b in inputs]
    want = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=special)]
    return texts, want, got


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_same_ids_and_text(family, tmp_path):
    rng = random.Random(family.__name__)
    tokenizer = family()
    path = tmp_path / "tokenizer.json"
    inputs = [s.encode() for s in SENTENCES] + [b"", b" ", b"\xff", TEXT[:50_000].encode()]
    inputs += [random_bytes(rng) for _ in range(STRINGS)]
    texts, want, got = encode_both(tokenizer, path, inputs, special=rng.random() < 0.5)
    for text, w, g in zip(texts, want, got):
        assert g == w, repr(text)

    # Decoding: what was encoded, and ids in no order at all.
    lists = want[:STRINGS // 2]
    size = tokenizer.get_vocab_size()
    lists += [[rng.randrange(size + 3) for _ in range(rng.randrange(1, 30))] for _ in range(STRINGS // 4)]
    lists += [[rng.randrange(min(size, 300)) for _ in range(rng.randrange(1, 30))] for _ in range(STRINGS // 4)]
    lists = [ids for ids in lists if ids]
    for skip in (False, True):
        answers = ours(path, [{"ids": ids, "skip": skip} for ids in lists])
        texts = tokenizer.decode_batch(lists, skip_special_tokens=skip)
        for ids, answer, text in zip(lists, answers, texts):
            assert answer["text"] == text, ids
            assert "".join(answer["stream"]) == text, ids


def test_vocabulary(tmp_path):
    tokenizer = llama3()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    (answer,) = ours(path, [{"vocab": True}])
    for id in range(answer["size"]):
        assert answer["tokens"][id] == (tokenizer.id_to_token(id) or "")


@pytest.mark.parametrize("pattern", [r"\p{L}", r"\p{N}", r"\p{M}", r"\p{P}", r"\p{S}", r"\s", r"[^\s\p{L}\p{N}]", r"\p{Lu}",
                                     "(?i:[sk])"])
def test_properties(pattern, tmp_path):
    """Every assigned code point: a removed character shows in the ids."""
    vocab = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = Sequence([Split(Regex(pattern), "removed"), ByteLevel(add_prefix_space=False, use_regex=False)])
    points = [c for c in range(0x32400) if not 0xD800 <= c < 0xE000]
    inputs = ["".join(map(chr, points[i:i + 64])).encode() for i in range(0, len(points), 64)]
    texts, want, got = encode_both(tokenizer, tmp_path / "tokenizer.json", inputs)
    wrong = [f"U+{ord(t[0]):04X}" for t, w, g in zip(texts, want, got) if w != g]
    assert not wrong


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase"])
def test_normal_forms(form, tmp_path):
    vocab = {c: i for i, c in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.normalizer = getattr(normalizers, form)()
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    points = [c for c in range(0x30000) if not 0xD800 <= c < 0xE000 and unicodedata.ucd_3_2_0.category(chr(c)) != "Cn"]
    rng = random.Random(form)
    marks = [c for c in points if unicodedata.combining(chr(c))]
    inputs = [chr(c).encode() for c in points if c < 0x3400 or c >= 0xA000 and c < 0xAC10 or c >= 0xD7A0]
    inputs += ["".join(chr(rng.choice(rng.choice([marks, points]))) for _ in range(12)).encode() for _ in range(3000)]
    texts, want, got = encode_both(tokenizer, tmp_path / "tokenizer.json", inputs)
    wrong = [t.encode("unicode_escape") for t, w, g in zip(texts, want, got) if w != g]
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("family", [gpt2, qwen2, llama2], ids=lambda f: f.__name__)
def test_huge_inputs_finish(family, tmp_path):
    path = tmp_path / "tokenizer.json"
    family().save(str(path))
    rng = random.Random(7)
    for name, data in [("letter", b"a" * 10_000_000), ("bytes", rng.randbytes(10_000_000))]:
        (tmp_path / name).write_bytes(data)
        (answer,) = ours(path, [{"file": str(tmp_path / name)}])
        assert answer["tokens"] > 0 and answer["seconds"] < 60
