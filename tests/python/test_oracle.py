"""The engine computes what the reference implementations compute.

Two oracles: golden files that transformers wrote in float32 (tools/make_tiny_models.py), and a NumPy decoder
(reference_model.py), itself checked against the golden files, for random shapes that change with every run.
NANO_VLLM_TEST_SEED repeats a run.
"""

import json
import os
import random

import numpy as np
import pytest

from batch_driver import FLOAT32, TINY, greedy_body, prompt_logprobs, run_batch, score_body
from random_checkpoint import random_prompts, write_random_checkpoint
from random_gguf import BLOCKS_OF_32, BLOCKS_OF_256, UNQUANTIZED, write_random_gguf
from reference_model import ReferenceModel

MODELS = sorted(p.name for p in TINY.iterdir() if (p / "golden.json").exists())
TOLERANCE = 1e-3       # float32 weights and cache: each logprob
TOLERANCE_BF16 = 0.03  # bfloat16: on average
SEED = int(os.environ.get("NANO_VLLM_TEST_SEED", random.randrange(1 << 30)))


def golden(name):
    return json.loads((TINY / name / "golden.json").read_text())


def check_greedy(result, expected_tokens, gaps, tolerance=TOLERANCE):
    """Equal tokens up to the first place where the reference's best two are closer than the tolerance."""
    got = result["choices"][0]["token_ids"]
    assert len(got) == len(expected_tokens)
    for step, (a, b, gap) in enumerate(zip(got, expected_tokens, gaps)):
        if a != b:
            assert gap <= tolerance, f"step {step}: token {a}, expected {b}, which leads by {gap}"
            return


def worst(got, expected):
    return max((abs(a - b) for a, b in zip(got, expected)), default=0.0)


def check_against_numpy(model_path, reference_path, prompts):
    """The engine on model_path against the NumPy decoder on the folder reference_path, float32."""
    model = ReferenceModel(reference_path)
    bodies = [score_body(ids) for ids in prompts] + [greedy_body(ids[:20], 8) for ids in prompts]
    results = run_batch(model_path, bodies, *FLOAT32)
    for ids, result in zip(prompts, results):
        assert worst(prompt_logprobs(result, ids), model.score(ids)) < TOLERANCE
    for ids, result in zip(prompts, results[len(prompts):]):
        check_greedy(result, *model.greedy(ids[:20], 8))


@pytest.mark.parametrize("name", MODELS)
def test_numpy_reference_agrees_with_transformers(name):
    model = ReferenceModel(TINY / name)
    for prompt in golden(name)["prompts"]:
        assert worst(model.score(prompt["ids"]), prompt["logprobs"]) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_golden_float32(name):
    expected = golden(name)
    bodies = [score_body(p["ids"], 5) for p in expected["prompts"]]
    bodies += [greedy_body(g["ids"], len(g["tokens"])) for g in expected["greedy"]]
    results = run_batch(TINY / name, bodies, *FLOAT32)
    for prompt, result in zip(expected["prompts"], results):
        ids = prompt["ids"]
        assert worst(prompt_logprobs(result, ids), prompt["logprobs"]) < TOLERANCE
        assert result["choices"][0]["prompt_token_ids"] == ids
        if "top_logprobs" in prompt:
            tops = result["choices"][0]["logprobs"]["top_logprobs"][1:]
            for top, values in zip(tops, prompt["top_logprobs"]):
                got = sorted(top.values(), reverse=True)[:5]
                if (TINY / name / "tokenizer.json").exists():  # tokens that read the same share one entry
                    values = [min(values, key=lambda v: abs(v - g)) if g >= values[-1] else g for g in got]
                assert worst(got, values) < TOLERANCE
    for item, result in zip(expected["greedy"], results[len(expected["prompts"]):]):
        check_greedy(result, item["tokens"], item["gaps"])
        if result["choices"][0]["token_ids"] == item["tokens"]:
            assert worst(result["choices"][0]["logprobs"]["token_logprobs"], item["logprobs"]) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_golden_bfloat16(name):
    expected = golden(name)["prompts"]
    results = run_batch(TINY / name, [score_body(p["ids"]) for p in expected], "--dtype", "bfloat16",
                        "--kv-cache-dtype", "bfloat16")
    differences = [abs(a - b) for prompt, result in zip(expected, results)
                   for a, b in zip(prompt_logprobs(result, prompt["ids"]), prompt["logprobs"])]
    assert sum(differences) / len(differences) < TOLERANCE_BF16


@pytest.mark.parametrize("name", [n for n in MODELS if "eos_token_ids" in golden(n)])
def test_every_eos_token_of_generation_config_stops(name):
    expected = golden(name)
    eos = expected["eos_token_ids"]
    bodies = [greedy_body(g["ids"], len(g["tokens"]), ignore_eos=False) for g in expected["greedy"]]
    stopped = 0
    for item, result in zip(expected["greedy"], run_batch(TINY / name, bodies, *FLOAT32)):
        choice = result["choices"][0]
        where = next((i for i, t in enumerate(item["tokens"]) if t in eos), None)
        if where is None:
            assert choice["finish_reason"] == "length" and choice["token_ids"] == item["tokens"]
        else:
            assert choice["finish_reason"] == "stop" and choice["token_ids"] == item["tokens"][:where + 1]
            stopped += 1
    assert stopped >= 2


@pytest.mark.parametrize("number", range(8))
def test_random_shapes_float32(number, tmp_path):
    print(f"NANO_VLLM_TEST_SEED={SEED}")
    rng = np.random.default_rng([SEED, number])
    config = write_random_checkpoint(tmp_path, rng)
    print(json.dumps(config))
    check_against_numpy(tmp_path, tmp_path, random_prompts(rng, config, 5))


@pytest.mark.parametrize("kind", [None] + UNQUANTIZED + BLOCKS_OF_32 + BLOCKS_OF_256,
                         ids=lambda kind: kind.name if kind else "mixed")
def test_random_gguf_float32(kind, tmp_path):
    print(f"NANO_VLLM_TEST_SEED={SEED}")
    rng = np.random.default_rng([SEED, 100 + (kind or 50)])
    while True:
        folder = tmp_path / str(rng.integers(1 << 30))
        folder.mkdir()
        config, used = write_random_gguf(folder, rng, only=kind)
        if kind is None or kind.name in used:
            break
    print(json.dumps(config), used)
    check_against_numpy(folder / "model.gguf", folder / "hf", random_prompts(rng, config, 3, longest=80))
