"""Batch invariance: a request's tokens and logprobs are the same bits whatever runs beside it and however it is run.

The same requests run alone, one process each, and then together under every block size, token budget, cache setting,
thread count, order and instruction set. JSON carries a float32 without loss, so equal JSON numbers are equal bits.
"""

import json
import random
import re
import subprocess

import pytest

from batch_driver import TINY, binary, run_batch, run_batch_with_log

MODELS = ["llama-chat", "qwen3", "mistral", "qwen2-window"]
LONGEST = 140 + 24  # tokens of the longest request, prompt and answer


def requests(model):
    """Requests of every kind: prompts of 1 to 140 ids, several sharing a beginning, all ways of sampling."""
    rng = random.Random(model)
    vocab = json.loads((TINY / model / "config.json").read_text())["vocab_size"]

    def ids(n):
        return [rng.randrange(3, vocab) for _ in range(n)]

    shared = ids(70)
    bodies = [
        {"prompt": ids(1), "temperature": 0, "max_tokens": 24, "logprobs": 3},
        {"prompt": ids(140), "temperature": 0, "max_tokens": 24, "logprobs": 0},
        {"prompt": ids(33), "temperature": 0, "max_tokens": 0, "echo": True, "logprobs": 2},
        {"prompt": shared + ids(5), "temperature": 0.9, "seed": 1, "max_tokens": 20, "logprobs": 2},
        {"prompt": shared + ids(17), "temperature": 1.3, "seed": 2, "top_k": 20, "top_p": 0.9, "max_tokens": 20, "logprobs": 1},
        {"prompt": shared, "temperature": 1.0, "seed": 3, "min_p": 0.05, "n": 3, "max_tokens": 16, "logprobs": 1},
        {"prompt": shared, "temperature": 0, "max_tokens": 20, "repetition_penalty": 1.4, "logprobs": 1},
        {"prompt": ids(9), "temperature": 0.7, "seed": 4, "presence_penalty": 1.5, "frequency_penalty": 0.5,
         "max_tokens": 24, "logprobs": 1},
        {"prompt": ids(48), "temperature": 1.0, "seed": 5, "n": 2, "max_tokens": 12, "prompt_logprobs": 1, "logprobs": 0},
        {"prompt": ids(16), "temperature": 0, "max_tokens": 24, "logit_bias": {"7": 3.0, "11": -100}, "logprobs": 1},
        {"prompt": ids(32), "temperature": 1.0, "seed": 6, "max_tokens": 24, "stop_token_ids": list(range(20, 40)),
         "logprobs": 1},
        {"prompt": ids(64), "temperature": 0, "max_tokens": 24, "min_tokens": 10, "stop_token_ids": list(range(40, 90)),
         "ignore_eos": False, "logprobs": 1},
    ]
    if model == "llama-chat":
        bodies += [
            {"prompt": "The answer is", "temperature": 1.0, "seed": 7, "max_tokens": 24, "stop": ["e", " t"], "logprobs": 1},
            {"prompt": "What is the capital?", "temperature": 1.0, "seed": 8, "n": 2, "max_tokens": 24, "stop": "ab",
             "include_stop_str_in_output": True, "logprobs": 1},
        ]
    return [{"ignore_eos": True, "return_token_ids": True, **body} for body in bodies]


def drafts(tokens, longest, shortest):
    return ["--speculative-config", json.dumps({"method": "ngram", "num_speculative_tokens": tokens,
                                                "prompt_lookup_max": longest, "prompt_lookup_min": shortest})]


def answer(body):
    """What must not change: everything but names, times, and how much came from the cache."""
    usage = {k: v for k, v in body["usage"].items() if k != "prompt_tokens_details"}
    return {"choices": body["choices"], "usage": usage}


def forced_isas():
    """The instruction sets that this machine can be told to use and that share their bits: avx512-bf16 rounds the
    activations of bfloat16 weights."""
    usable = []
    for isa in ("scalar", "avx2", "avxvnni", "avx512", "neon"):
        done = subprocess.run([binary(), "run-batch", "-i", "/dev/null", "-o", "-", "--model", str(TINY / "qwen3")],
                              env={"NANO_VLLM_FORCE_ISA": isa}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
        if done.returncode == 0:
            usable.append(isa)
    assert "scalar" in usable
    return usable


@pytest.fixture(scope="module", params=MODELS)
def alone(request):
    """(model, requests, the answer to each when nothing else runs)"""
    bodies = requests(request.param)
    flags = ("--threads", "1", "--no-enable-prefix-caching")
    answers = [answer(run_batch(TINY / request.param, [body], *flags)[0]) for body in bodies]
    assert all(len(a["choices"]) == body.get("n", 1) for a, body in zip(answers, bodies))
    return request.param, bodies, answers


def check(alone, *flags, **options):
    model, bodies, expected = alone
    results, log = run_batch_with_log(TINY / model, bodies, *flags, **options)
    for number, (got, want) in enumerate(zip(results, expected)):
        assert answer(got) == want, f"request {number}: {bodies[number]}"
    return log


VARIANTS = [
    [], ["--threads", "1"], ["--threads", "2"],
    ["--block-size", "1"], ["--block-size", "16"], ["--block-size", "256"],
    ["--max-num-batched-tokens", "1"], ["--max-num-batched-tokens", "2"], ["--max-num-batched-tokens", "7"],
    ["--max-num-batched-tokens", "64"], ["--max-num-batched-tokens", "2048"],
    ["--max-num-seqs", "1"], ["--max-num-seqs", "3"],
    ["--no-enable-prefix-caching"],
    ["--no-enable-prefix-caching", "--block-size", "1", "--max-num-batched-tokens", "3"],
    ["--block-size", "5", "--max-num-batched-tokens", "13", "--max-num-seqs", "5", "--threads", "2"],
    drafts(1, 1, 1), drafts(4, 3, 1), drafts(16, 2, 1) + ["--block-size", "3"],
    drafts(6, 3, 1) + ["--max-num-batched-tokens", "7"],
    drafts(5, 4, 2) + ["--no-enable-prefix-caching", "--max-num-seqs", "3", "--threads", "1"],
]


@pytest.mark.parametrize("flags", VARIANTS, ids=" ".join)
def test_together(alone, flags):
    log = check(alone, *flags)
    if "--speculative-config" in flags:
        _, drafted, accepted = map(int, re.search(r"drafts: (\d+) of (\d+) tokens, (\d+) of them accepted", log).groups())
        assert drafted > accepted
    else:
        assert "drafts" not in log


def test_drafts_that_are_right_change_nothing_either(alone):
    """Answers that repeat themselves, greedy and sampled: here most guesses are right."""
    model, _, _ = alone
    rng = random.Random(1)
    bodies = [{"prompt": [rng.randrange(3, 90) for _ in range(10 + i)], "max_tokens": 40, "logprobs": 2, "ignore_eos": True,
               "return_token_ids": True, "temperature": i % 3 * 0.7, "seed": i, "n": 1 + i % 3 // 2,
               "logit_bias": {"7": 30.0, "11": 28.0}} for i in range(6)]
    expected = [answer(run_batch(TINY / model, [body], "--threads", "1")[0]) for body in bodies]
    results, log = run_batch_with_log(TINY / model, bodies, *drafts(5, 3, 1), "--block-size", "4")
    assert [answer(r) for r in results] == expected
    _, drafted, accepted = map(int, re.search(r"drafts: (\d+) of (\d+) tokens, (\d+) of them accepted", log).groups())
    assert accepted > 40 and drafted > accepted, log


@pytest.mark.parametrize("caching", ["--enable-prefix-caching", "--no-enable-prefix-caching"])
@pytest.mark.parametrize("block_size", [1, 4, 16])
@pytest.mark.parametrize("more", [[], drafts(6, 2, 1)], ids=["", "drafts"])
def test_with_preemption(alone, block_size, caching, more):
    model, _, _ = alone
    plan = json.loads(subprocess.run([binary(), "inspect", str(TINY / model), "--json"], capture_output=True, text=True,
                                     check=True).stdout)["memory"]
    blocks = -(-LONGEST // block_size) + 1
    log = check(alone, "--kv-cache-memory-bytes", plan["kv_bytes_per_token"] * block_size * blocks,
                "--block-size", block_size, "--max-num-batched-tokens", 48, caching, *more)
    if not more:  # with drafts, sequences may be through before memory runs short
        assert int(re.search(r"(\d+) preemptions", log)[1]) > 0, log


@pytest.mark.parametrize("seed", range(3))
def test_shuffled(alone, seed):
    model, bodies, expected = alone
    order = list(range(len(bodies))) * 2  # each twice: the second finds the first one's blocks
    random.Random(seed).shuffle(order)
    results = run_batch(TINY / model, [bodies[i] for i in order], "--max-num-batched-tokens", 100)
    for i, got in zip(order, results):
        assert answer(got) == expected[i], f"request {i}: {bodies[i]}"
    assert any(got["usage"]["prompt_tokens_details"]["cached_tokens"] for got in results)


@pytest.mark.parametrize("kv", ["float32", "bfloat16", "int8"])
def test_every_instruction_set_gives_the_same_bits(kv):
    bodies = requests("llama-chat")
    flags = ("--kv-cache-dtype", kv)
    expected = [answer(r) for r in run_batch(TINY / "llama-chat", bodies, *flags, env={"NANO_VLLM_FORCE_ISA": "scalar"})]
    for isa in forced_isas():
        results = run_batch(TINY / "llama-chat", bodies, *flags, env={"NANO_VLLM_FORCE_ISA": isa})
        assert [answer(r) for r in results] == expected, isa


@pytest.mark.parametrize("flags", [["--dtype", "float32"], ["--quantization", "int8"], ["--quantization", "int4"]], ids=" ".join)
def test_every_weight_type(flags):
    bodies = requests("llama-chat")
    expected = [answer(run_batch(TINY / "llama-chat", [body], "--threads", "1", *flags)[0]) for body in bodies]
    for more in (["--threads", "2"], ["--max-num-batched-tokens", "3", "--block-size", "4"]):
        assert [answer(r) for r in run_batch(TINY / "llama-chat", bodies, *flags, *more)] == expected
    for isa in forced_isas():
        results = run_batch(TINY / "llama-chat", bodies, *flags, env={"NANO_VLLM_FORCE_ISA": isa})
        assert [answer(r) for r in results] == expected, isa
