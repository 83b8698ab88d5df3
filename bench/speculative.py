#!/usr/bin/env python3
"""Prompt lookup on and off, in alternation, on tasks that copy and one that does not. The answers must be equal.

    python3 bench/speculative.py [MODEL] [--rounds 3] [--tokens 4] [--lookup-max 4] [--lookup-min 1] [-- ENGINE FLAGS...]

tokens/step counts decode steps: answer tokens less the accepted ones are the steps it took. tokens/s is of the decode alone,
the best of the rounds for each side.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

CODE = '''class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance
        self.history = []

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount
        self.history.append(("deposit", amount))
        return self.balance

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("insufficient funds")
        self.balance -= amount
        self.history.append(("withdraw", amount))
        return self.balance
'''
TEXT = '''The lighthouse at Cape Morrow was built in 1871, after the wreck of the steamer Adelaide. "We lost forty souls within sight
of the harbour," the keeper wrote, "for want of a single lamp." The tower is 34 metres high and was lit with rapeseed oil until
1904, when the first electric lamp was fitted. During the storm of 1923 the sea broke the windows of the gallery, and the
keeper's daughter, Ellen Marsh, kept the light burning for two nights. It was automated in 1986 and has been a museum since 1999.
'''
TASKS = {
    "edit code": f"Rename the class Account to BankAccount in this code and give back the whole code:\n\n```python\n{CODE}```",
    "quote a text": f"Repeat the following text word for word:\n\n{TEXT}",
    "free answer": "Explain why the sky is blue and why sunsets are red.",
}


def generate(binary, model, prompt, flags):
    """The answer, and the figures on stderr: (answer tokens, decode tokens/s, drafted, accepted)."""
    command = [binary, "generate", *model, "-p", prompt, "--temperature", "0", "--repetition-penalty", "1", "--max-tokens", "160", *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    tokens, rate = re.search(r"answer: (\d+) tokens, ([\d.]+) tokens/s", done.stderr).groups()
    drafts = re.search(r"drafts: \d+ of (\d+) tokens, (\d+) of them", done.stderr)
    return done.stdout, int(tokens), float(rate), *map(int, drafts.groups() if drafts else (0, 0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=4)
    parser.add_argument("--lookup-max", type=int, default=4)
    parser.add_argument("--lookup-min", type=int, default=1)
    own, engine = sys.argv[1:], []
    if "--" in own:
        own, engine = own[:own.index("--")], own[own.index("--") + 1:]
    o = parser.parse_args(own)
    root = pathlib.Path(__file__).resolve().parents[1]
    binary, model = str(root / "build" / "release" / "nano-vllm"), [o.model] if o.model else []
    config = {"method": "ngram", "num_speculative_tokens": o.tokens, "prompt_lookup_max": o.lookup_max, "prompt_lookup_min": o.lookup_min}
    print("| task | answer tokens | accepted of drafted | tokens/step | tokens/s without | with | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, prompt in TASKS.items():
        plain, guessed = [], []
        for _ in range(o.rounds):
            plain.append(generate(binary, model, prompt, engine))
            guessed.append(generate(binary, model, prompt, [*engine, "--speculative-config", json.dumps(config)]))
        text, tokens, _, drafted, accepted = guessed[0]
        if any(run[0] != text for run in plain + guessed):
            sys.exit(f"{name}: the answers differ")
        before, after = max(run[2] for run in plain), max(run[2] for run in guessed)
        share = f"{accepted} of {drafted} ({100 * accepted / drafted:.0f} %)" if drafted else "0"
        print(f"| {name} | {tokens} | {share} | {tokens / (tokens - accepted):.2f} | {before:.0f} | {after:.0f} | {after / before:.2f} |",
              flush=True)


if __name__ == "__main__":
    main()
