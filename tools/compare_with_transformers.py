#!/usr/bin/env python3
"""Compares nano-vllm with transformers on random checkpoints of random architectures and shapes.

Each round writes a checkpoint (tests/python/random_checkpoint.py), scores prompts of 1 to 300 tokens and continues some of
them greedily with transformers in float32, runs the same through `nano-vllm run-batch` in float32 and bfloat16, and reports
the largest difference. In bfloat16 some random networks amplify the rounding of weights and cache beyond the tolerance of 0.03
on average; there, what transformers' own bfloat16 loses is allowed. With --gguf the engine reads a GGUF file of random types and transformers the dequantized weights.
Ends with exit code 1 if anything was beyond the tolerance; --keep saves those checkpoints.

    python tools/compare_with_transformers.py --count 100 [--seed 1] [--gguf] [--keep FOLDER]
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "python")]

import make_tiny_models  # noqa: E402
from batch_driver import FLOAT32, greedy_body, prompt_logprobs, run_batch, score_body  # noqa: E402
from random_checkpoint import random_prompts, write_random_checkpoint  # noqa: E402
from random_gguf import write_random_gguf  # noqa: E402
from reference_model import ReferenceModel  # noqa: E402

STEPS = 8


def mean_difference(scores, expected):
    return float(np.mean([abs(a - b) for s, e in zip(scores, expected) for a, b in zip(s, e)]))


def compare(model_path, reference_path, prompts, engine=True):
    """Returns (largest float32 difference, mean bfloat16 difference, list of complaints)."""
    model = make_tiny_models.load_reference(reference_path)
    expected = [make_tiny_models.score(model, ids)[0] for ids in prompts]
    continued = [make_tiny_models.greedy(model, ids[:40], STEPS) for ids in prompts[:3]]
    if not engine:  # check the NumPy reference instead
        numpy_model = ReferenceModel(reference_path)
        scores = [numpy_model.score(ids) for ids in prompts]
        return max(abs(a - b) for s, e in zip(scores, expected) for a, b in zip(s, e)), 0.0, []
    model.to(torch.bfloat16)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)  # its frequencies stay float32
    own = mean_difference([make_tiny_models.score(model, ids)[0] for ids in prompts], expected)
    complaints = []
    bodies = [score_body(ids) for ids in prompts]
    wide = run_batch(model_path, bodies + [greedy_body(ids[:40], STEPS) for ids in prompts[:3]], *FLOAT32)
    narrow = run_batch(model_path, bodies, "--dtype", "bfloat16")
    difference = max(abs(a - b) for ids, e, r in zip(prompts, expected, wide)
                     for a, b in zip(prompt_logprobs(r, ids), e))
    mean = mean_difference([prompt_logprobs(r, ids) for ids, r in zip(prompts, narrow)], expected)
    if not difference < 1e-3:
        complaints.append(f"float32 differs by {difference:.2e}")
    if not mean < max(0.03, own):
        complaints.append(f"bfloat16 differs by {mean:.3f} on average, transformers' own by {own:.3f}")
    for (tokens, _, gaps), result in zip(continued, wide[len(prompts):]):
        got = result["choices"][0]["token_ids"]
        for step, (a, b, gap) in enumerate(zip(got, tokens, gaps)):
            if a != b:
                if gap > 1e-3:
                    complaints.append(f"greedy step {step}: {a} instead of {b}, which leads by {gap:.4f}")
                break
    return difference, mean, complaints


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for checkpoints that disagree")
    parser.add_argument("--gguf", action="store_true", help="GGUF files instead of safetensors")
    parser.add_argument("--numpy", action="store_true", help="check tests/python/reference_model.py instead of the engine")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    failures, largest, means = 0, 0.0, []
    for number in range(args.first, args.first + args.count):
        rng = np.random.default_rng([args.seed, number])
        with tempfile.TemporaryDirectory() as folder:
            model_path = reference_path = pathlib.Path(folder)
            if args.gguf:
                config, kinds = write_random_gguf(folder, rng)
                model_path, reference_path = model_path / "model.gguf", reference_path / "hf"
                config["gguf types"] = kinds
            else:
                config = write_random_checkpoint(folder, rng)
            prompts = random_prompts(rng, config, 6)
            try:
                difference, mean, complaints = compare(model_path, reference_path, prompts, engine=not args.numpy)
                largest = max(largest, difference)
                means.append(mean)
            except (AssertionError, KeyError, TypeError, subprocess.TimeoutExpired) as error:
                complaints = [f"{type(error).__name__}: {error}"]
            for complaint in complaints:
                print(f"round {number}: {complaint}")
            if complaints:
                failures += 1
                print("   ", json.dumps(config))
                if args.keep:
                    shutil.copytree(folder, args.keep / f"{args.seed}-{number}", dirs_exist_ok=True)
    print(f"{args.count} checkpoints, {failures} disagree; float32 differs by {largest:.1e} at most, "
          f"bfloat16 by {np.mean(means) if means else 0:.4f} on average ({max(means, default=0):.4f} in the worst)")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
