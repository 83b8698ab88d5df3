#!/usr/bin/env python3
"""Writes tests/data/smollm2_golden.json: what transformers computes from SmolLM2-135M-Instruct's dequantized weights.

Loads the GGUF file (transformers dequantizes it to float32 tensor by tensor) and scores a few texts and continues a few
chats greedily. Needs torch, transformers and gguf.

    python tools/make_smollm2_golden.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import pathlib
import sys

import transformers

import make_tiny_models
from make_tiny_models import rounded

TARGET = make_tiny_models.TINY.parent / "smollm2_golden.json"
TEXTS = [
    "The capital of France is Paris, and the capital of Italy is Rome.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "Once upon a time there was a small mouse who lived in a library. Every night, when the readers had gone home, the "
    "mouse climbed down from the highest shelf and chose a book. It could not read, but it liked the smell of the paper, "
    "and it liked to sit on the pictures of cheese.",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20",
    "Größe, façade, Ωmega, 東京 and 🙂 are words with other letters.",
]
QUESTIONS = ["What is the capital of France?", "Name three colours.", "What is 2 + 2?"]


def main():
    path = pathlib.Path(sys.argv[1])
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype="float32", attn_implementation="eager").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    result = {"texts": [], "chats": []}
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        result["texts"].append({"text": text, "ids": ids, "logprobs": rounded(make_tiny_models.score(model, ids)[0])})
    for question in QUESTIONS:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        ids = list(ids["input_ids"] if hasattr(ids, "keys") else ids)
        tokens, logprobs, gaps = make_tiny_models.greedy(model, ids, 24)
        result["chats"].append({"question": question, "ids": ids, "tokens": tokens, "logprobs": rounded(logprobs),
                                "gaps": rounded(gaps)})
        print(question, "->", repr(tokenizer.decode(tokens)))
    for item in result["texts"]:
        print(f"{len(item['ids'])} tokens, mean logprob {sum(item['logprobs']) / len(item['logprobs']):.3f}")
    TARGET.write_text(json.dumps(result, separators=(",", ":"), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
