"""The real model, SmolLM2-135M-Instruct: sensible answers, and the logprobs of its dequantized weights.

The weights are fetched once (`nano-vllm pull`) and kept in the cache; the tests are skipped only where there is neither a
cached copy nor a network. tests/data/smollm2_golden.json comes from tools/make_smollm2_golden.py.
"""

import json
import re
import subprocess

import pytest

from batch_driver import FLOAT32, ROOT, binary, greedy_body, prompt_logprobs, run_batch, score_body

GOLDEN = json.loads((ROOT / "tests" / "data" / "smollm2_golden.json").read_text())
NAME = "smollm2-135m-instruct"


@pytest.fixture(scope="module")
def model():
    done = subprocess.run([binary(), "pull", NAME], capture_output=True, text=True, timeout=600)
    if "no network" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def nano_vllm(*arguments, text=None):
    done = subprocess.run([binary(), *arguments], input=text, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generate_answers(model):
    out = nano_vllm("generate", model, "-p", "What is the capital of France?", "--temperature", "0", "--max-tokens", "32")
    assert out.strip() == "The capital of France is Paris."


def test_generate_by_short_name_continues_raw_text(model):
    out = nano_vllm("generate", "--raw", "-p", "1, 2, 3, 4, 5, 6,", "--temperature", "0", "--max-tokens", "12")
    assert "7, 8, 9" in out


def test_chat_through_a_pipe_remembers_the_conversation(model):
    out = nano_vllm("chat", model, "--temperature", "0", "--max-tokens", "40",
                    text="What is the capital of France?\nAnd of Italy?\n")
    assert "Paris" in out and "Rome" in out


def test_tokenizer_gives_the_golden_ids(model):
    for item in GOLDEN["texts"]:
        assert json.loads(nano_vllm("tokenize", model, text=item["text"])) == item["ids"], item["text"]
    for item in GOLDEN["chats"]:
        messages = json.dumps([{"role": "user", "content": item["question"]}])
        assert json.loads(nano_vllm("tokenize", model, "--chat", text=messages)) == item["ids"], item["question"]


@pytest.mark.parametrize("flags, worst, average", [(FLOAT32, 1e-3, 3e-4), ((), None, 0.03)], ids=["float32", "default"])
def test_prompt_logprobs_agree_with_transformers(model, flags, worst, average):
    results = run_batch(model, [score_body(item["ids"]) for item in GOLDEN["texts"]], *flags)
    differences = [abs(a - b) for item, result in zip(GOLDEN["texts"], results)
                   for a, b in zip(prompt_logprobs(result, item["ids"]), item["logprobs"])]
    print(f"largest difference {max(differences):.2e}, average {sum(differences) / len(differences):.2e}")
    assert worst is None or max(differences) < worst
    assert sum(differences) / len(differences) < average


def test_greedy_tokens_agree_with_transformers(model):
    results = run_batch(model, [greedy_body(item["ids"], len(item["tokens"])) for item in GOLDEN["chats"]], *FLOAT32)
    for item, result in zip(GOLDEN["chats"], results):
        for got, want, gap in zip(result["choices"][0]["token_ids"], item["tokens"], item["gaps"]):
            if got != want:
                assert gap < 1e-3, (item["question"], got, want, gap)
                break


def test_chat_completions_use_the_template(model):
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0, "max_tokens": 32}
    result = run_batch(model, [body], urls=["/v1/chat/completions"])[0]
    assert result["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert result["choices"][0]["finish_reason"] == "stop"


def test_guessed_tokens_change_no_answer(model):
    """A task that copies: most tokens are guessed, and the text is what it is without guessing."""
    code = "def area(width, height):\n    return width * height\n\n\ndef volume(width, height, depth):\n    return area(width, height) * depth\n"
    command = [binary(), "generate", model, "-p", f"Repeat this code exactly:\n\n```python\n{code}```", "--temperature", "0",
               "--repetition-penalty", "1", "--max-tokens", "64"]
    speculative = ["--speculative-config", '{"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4, "prompt_lookup_min": 1}']
    without = subprocess.run(command, capture_output=True, text=True, timeout=300)
    guessed = subprocess.run(command + speculative, capture_output=True, text=True, timeout=300)
    assert without.returncode == guessed.returncode == 0
    assert guessed.stdout == without.stdout and "return width * height" in guessed.stdout
    accepted = int(re.search(r"(\d+) of them accepted", guessed.stderr)[1])
    answered = int(re.search(r"answer: (\d+) tokens", guessed.stderr)[1])
    assert accepted > answered / 3, guessed.stderr
