#!/usr/bin/env python3
"""Writes the tiny random checkpoints under tests/data/tiny and their golden results.

Each folder is a Hugging Face checkpoint of a few tens of kilobytes; its golden.json holds what transformers computes from
it in float32: the logprob of every prompt token, the top five of some positions, and greedy continuations with the
distance between the best and the second best token. Weights are larger than a trained model's initial ones, so that
attention, biases, norms and MLP all matter and a wrong one shows in the logprobs.

Needs torch, transformers, tokenizers and safetensors (see docs/testing.md); a developer runs it, the tests only read
what it wrote.

    python tools/make_tiny_models.py [NAME...]
"""

import json
import pathlib
import shutil
import sys
import zlib

import torch
import transformers

TINY = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "tiny"
PROMPT_LENGTHS = (1, 2, 7, 17, 64, 300)
GREEDY_TOKENS = 24

# One small, odd shape: no size is a multiple of 16, and few are of 4.
ODD = dict(hidden_size=40, num_attention_heads=5, num_key_value_heads=1, head_dim=10, intermediate_size=37,
           vocab_size=101, num_hidden_layers=2)


def theta(value, rope_type="default", **more):
    return {"rope_type": rope_type, "rope_theta": value, **more}


LLAMA3_ROPE = theta(1000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                    original_max_position_embeddings=64)
YARN_ROPE = theta(1000.0, "yarn", factor=4.0, original_max_position_embeddings=64)

# name: (model type, configuration, how it is written)
#   style   "new": as transformers 5 writes config.json (rope_parameters, dtype, layer_types);
#           "old": rope_theta + rope_scaling, torch_dtype, no layer_types
#   seed    another draw than the name's own
#   set     keys forced into config.json afterwards (None removes the key)
MODELS = {
    "llama": ("llama", dict(hidden_size=48, num_attention_heads=4, num_key_value_heads=4, intermediate_size=72,
                            vocab_size=160, num_hidden_layers=2, rms_norm_eps=1e-5, tie_word_embeddings=False,
                            rope_parameters=theta(10000.0)),
              dict(style="old", dtype="float16", set={"rope_theta": None, "head_dim": None,
                                                       "num_key_value_heads": None})),
    "qwen3": ("qwen3", dict(hidden_size=40, num_attention_heads=6, num_key_value_heads=2, head_dim=18,
                            intermediate_size=58, vocab_size=150, num_hidden_layers=2, tie_word_embeddings=True,
                            rope_parameters=theta(1000000.0)),
              dict(style="new", dtype="bfloat16")),
    "llama-chat": ("llama", dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
                                 vocab_size=320, num_hidden_layers=2, tie_word_embeddings=True,
                                 rope_parameters=theta(10000.0)),
                   dict(style="old", dtype="bfloat16", tokenizer=True, max_position_embeddings=2048)),
    "llama-gqa": ("llama", dict(ODD, tie_word_embeddings=True, rope_parameters=theta(500.0)),
                  dict(style="new", dtype="float32")),
    "llama-rope-llama3": ("llama", dict(hidden_size=36, num_attention_heads=6, num_key_value_heads=3, head_dim=14,
                                        intermediate_size=50, vocab_size=130, num_hidden_layers=2,
                                        rope_parameters=LLAMA3_ROPE),
                          dict(style="old", dtype="bfloat16", eos=True)),
    "llama-rope-llama3-new": ("llama", dict(ODD, rope_parameters=LLAMA3_ROPE), dict(style="new", dtype="float16")),
    "llama-rope-linear": ("llama", dict(ODD, num_key_value_heads=5, rope_parameters=theta(2000.0, "linear", factor=4.0)),
                          dict(style="old", dtype="float16", legacy_rope_type_key=True)),
    "llama-rope-yarn": ("llama", dict(ODD, head_dim=16, rope_parameters=YARN_ROPE), dict(style="new", dtype="bfloat16")),
    "llama-bias": ("llama", dict(ODD, attention_bias=True, mlp_bias=True, rope_parameters=theta(10000.0)),
                   dict(style="new", dtype="bfloat16", shards=4)),
    "smollm": ("llama", dict(hidden_size=54, num_attention_heads=9, num_key_value_heads=3, intermediate_size=90,
                             vocab_size=140, num_hidden_layers=2, tie_word_embeddings=True, rms_norm_eps=1e-5,
                             rope_parameters=theta(100000.0)),
               dict(style="old", dtype="bfloat16", eos=True)),
    "qwen2": ("qwen2", dict(hidden_size=42, num_attention_heads=7, num_key_value_heads=1, intermediate_size=58,
                            vocab_size=133, num_hidden_layers=2, tie_word_embeddings=True,
                            rope_parameters=theta(1000000.0)),
              dict(style="old", dtype="bfloat16", set={"use_sliding_window": False, "sliding_window": 8,
                                                        "max_window_layers": 1})),
    "qwen2-window": ("qwen2", dict(hidden_size=40, num_attention_heads=4, num_key_value_heads=2, intermediate_size=46,
                                   vocab_size=111, num_hidden_layers=3, tie_word_embeddings=False,
                                   use_sliding_window=True, sliding_window=13, max_window_layers=1,
                                   rope_parameters=theta(10000.0)),
                     dict(style="new", dtype="float32", shards=3)),
    "qwen2-window-old": ("qwen2", dict(hidden_size=50, num_attention_heads=5, num_key_value_heads=1,
                                       intermediate_size=37, vocab_size=101, num_hidden_layers=2,
                                       use_sliding_window=True, sliding_window=9, max_window_layers=1,
                                       rope_parameters=theta(10000.0)),
                         dict(style="old", dtype="bfloat16")),
    "qwen3-bias": ("qwen3", dict(ODD, attention_bias=True, tie_word_embeddings=False, rope_parameters=theta(10000.0)),
                   dict(style="old", dtype="float16", seed=1)),
    "mistral": ("mistral", dict(hidden_size=44, num_attention_heads=4, num_key_value_heads=2, head_dim=18,
                                intermediate_size=60, vocab_size=121, num_hidden_layers=3, sliding_window=16,
                                rope_parameters=theta(10000.0)),
                dict(style="old", dtype="bfloat16")),
    "mistral-full": ("mistral", dict(ODD, sliding_window=None, rope_parameters=theta(1000000.0)),
                     dict(style="new", dtype="bfloat16", eos=True)),
}


def randomize(model, seed):
    """Random weights under which every part of the decoder changes the result."""
    rng = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=rng)
        if name.endswith("bias"):
            value = 0.4 * noise
        elif "norm" in name:
            value = 1.0 + 0.25 * noise
        elif "embed_tokens" in name:  # also the head when tied: logits of standard deviation 2
            value = 2.0 * noise / p.shape[1] ** 0.5
        elif "lm_head" in name:
            value = 2.0 * noise / p.shape[1] ** 0.5
        else:
            value = (1.5 if "q_proj" in name or "k_proj" in name else 1.2) * noise / p.shape[1] ** 0.5
        p.data.copy_(value)


def rewrite_config(folder, how):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("initializer_range", "attention_dropout", "use_cache", "pad_token_id", "pretraining_tp"):
        config.pop(key, None)
    if how.get("style") == "old":
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        if rope["rope_type"] == "default":
            config["rope_scaling"] = None
        else:
            if how.get("legacy_rope_type_key"):
                rope["type"] = rope.pop("rope_type")
            config["rope_scaling"] = rope
        config["torch_dtype"] = config.pop("dtype")
        config.pop("layer_types", None)
        config["transformers_version"] = "4.45.0"
    for key, value in how.get("set", {}).items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config, indent=1) + "\n")


def make_checkpoint(folder, model_type, config, how, seed):
    """Writes a random checkpoint; `how` is described at MODELS."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    cls = transformers.CONFIG_MAPPING[model_type]
    config = {"max_position_embeddings": how.get("max_position_embeddings", 512), "bos_token_id": 1, "eos_token_id": 2,
              **config}
    model = transformers.AutoModelForCausalLM.from_config(cls(**config), attn_implementation="eager")
    randomize(model, seed)
    model.to(getattr(torch, how.get("dtype", "float32")))
    kilobytes = sum(p.numel() * p.element_size() for p in model.parameters()) // 1000
    shards = how.get("shards", 1)
    model.save_pretrained(folder, max_shard_size="10MB" if shards == 1 else f"{kilobytes // shards + 1}KB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    rewrite_config(folder, how)
    for path in folder.iterdir():
        path.chmod(0o644)


def load_reference(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager").eval()


def random_prompts(vocab, lengths, seed):
    rng = torch.Generator().manual_seed(seed ^ 0x5EED)
    return [torch.randint(3, vocab, (n,), generator=rng).tolist() for n in lengths]


@torch.no_grad()
def score(model, ids, top=0):
    """Logprobs of ids[1:], and for each of those positions the `top` best (ids, logprobs)."""
    logprobs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    chosen = [logprobs[i, t].item() for i, t in enumerate(ids[1:])]
    values, indices = logprobs[:-1].topk(top) if top and len(ids) > 1 else (torch.empty(0, 0), torch.empty(0, 0))
    return chosen, indices.tolist(), values.tolist()


@torch.no_grad()
def greedy(model, ids, steps):
    """Greedy continuation without stopping: tokens, their logprobs, and best minus second best. Without transformers'
    cache, so that a window or a scaled rope is applied exactly as in scoring."""
    ids = list(ids)
    tokens, logprobs, gaps = [], [], []
    for _ in range(steps):
        row = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0, -1].double(), -1)
        values, indices = row.topk(2)
        ids.append(indices[0].item())
        tokens.append(indices[0].item())
        logprobs.append(values[0].item())
        gaps.append((values[0] - values[1]).item())
    return tokens, logprobs, gaps


def rounded(values):
    return [rounded(v) if isinstance(v, list) else round(v, 5) for v in values]


def golden(model, prompts, continue_lengths=(1, 17, 64), steps=GREEDY_TOKENS):
    out = {"prompts": [], "greedy": []}
    for ids in prompts:
        top = 5 if len(ids) <= 17 else 0
        chosen, top_ids, top_logprobs = score(model, ids, top)
        entry = {"ids": ids, "logprobs": rounded(chosen)}
        if top:
            entry.update(top_ids=top_ids, top_logprobs=rounded(top_logprobs))
        out["prompts"].append(entry)
        if len(ids) in continue_lengths:
            tokens, logprobs, gaps = greedy(model, ids, steps)
            out["greedy"].append({"ids": ids, "tokens": tokens, "logprobs": rounded(logprobs), "gaps": rounded(gaps)})
    return out


CHAT_TEMPLATE = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a tiny model.<|im_end|>\\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def write_tokenizer(folder, vocab_size):
    """A byte-level BPE of 300-odd tokens in the manner of SmolLM2's, with ChatML markers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    text = ["The answer is that the engine is in the house and the reader is on the way to the end of the line.",
            "What is the capital of France? You are a tiny model and this is the system, the user and the assistant."]
    tokenizer.train_from_iterator(text, trainer)
    assert tokenizer.get_vocab_size() <= vocab_size
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>", "model_max_length": 2048,
        "clean_up_tokenization_spaces": False, "chat_template": CHAT_TEMPLATE}, indent=1) + "\n")


def make(name):
    model_type, config, how = MODELS[name]
    folder = TINY / name
    seed = zlib.crc32(name.encode()) + how.get("seed", 0)
    make_checkpoint(folder, model_type, config, how, seed)
    if how.get("tokenizer"):
        write_tokenizer(folder, config["vocab_size"])
    model = load_reference(folder)
    result = golden(model, random_prompts(config["vocab_size"], PROMPT_LENGTHS, seed))
    if how.get("eos"):
        # Two tokens that greedy decoding meets become end-of-sequence tokens, besides the one config.json names.
        tokens = result["greedy"][1]["tokens"]
        eos = [2, tokens[6], result["greedy"][2]["tokens"][9]]
        (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": eos}) + "\n")
        result["eos_token_ids"] = eos
    elif how.get("tokenizer"):
        (folder / "generation_config.json").write_text(json.dumps(
            {"bos_token_id": 1, "eos_token_id": 2, "do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95},
            indent=1) + "\n")
    (folder / "golden.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    gaps = [g for item in result["greedy"] for g in item["gaps"]]
    print(f"{name}: {size / 1000:.0f} kB, gaps {min(gaps):.3f} .. {max(gaps):.3f}, "
          f"mean logprob {sum(result['prompts'][-1]['logprobs']) / 299:.2f}, "
          f"{len(set(t for g in result['greedy'] for t in g['tokens']))} distinct greedy tokens")


def main():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        make(name)


if __name__ == "__main__":
    main()
