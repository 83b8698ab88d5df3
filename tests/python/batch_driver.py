"""Runs `nano-vllm run-batch` for the tests: requests in, one parsed result a request out.

NANO_VLLM_BUILD names the build directory; build/release is the default.
"""

import json
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "data" / "tiny"
FLOAT32 = ("--dtype", "float32", "--kv-cache-dtype", "float32")


def binary():
    path = ROOT / os.environ.get("NANO_VLLM_BUILD", "build/release") / "nano-vllm"
    assert path.exists(), f"{path} is not built; build it or set NANO_VLLM_BUILD"
    return str(path)


def run_batch(model, bodies, *flags, **options):
    """Sends every body as one batch; returns the response bodies in the order of `bodies`."""
    return run_batch_with_log(model, bodies, *flags, **options)[0]


def run_batch_with_log(model, bodies, *flags, env=None, urls=None, timeout=300):
    """The same, and what it printed on stderr."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = pathlib.Path(folder, "in.jsonl"), pathlib.Path(folder, "out.jsonl")
        lines = [{"custom_id": str(i), "method": "POST", "url": urls[i] if urls else "/v1/completions",
                  "body": {"model": "m", **body}} for i, body in enumerate(bodies)]
        source.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = [binary(), "run-batch", "-i", str(source), "-o", str(target), "--model", str(model), *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})
        assert done.returncode == 0, f"{' '.join(command)}\nexit code {done.returncode}\n{done.stderr[-4000:]}"
        results = {}
        for line in target.read_text().splitlines():
            item = json.loads(line)
            assert not item.get("error") and item["response"]["status_code"] == 200, item
            results[item["custom_id"]] = item["response"]["body"]
    assert len(results) == len(bodies), f"{len(bodies)} requests, {len(results)} results"
    return [results[str(i)] for i in range(len(bodies))], done.stderr


def score_body(ids, logprobs=0):
    """Scores a prompt: the logprobs of its own tokens."""
    return {"prompt": ids, "echo": True, "logprobs": logprobs, "max_tokens": 0, "return_token_ids": True}


def greedy_body(ids, steps, **more):
    return {"prompt": ids, "temperature": 0, "max_tokens": steps, "logprobs": 2, "ignore_eos": True,
            "return_token_ids": True, **more}


def prompt_logprobs(result, ids):
    """The logprobs of ids[1:] in the answer to a score_body."""
    values = result["choices"][0]["logprobs"]["token_logprobs"]
    assert len(values) == len(ids) and values[0] is None, values[:3]
    return values[1:]
