"""What the engines are asked to do, and what the model's shape says it costs at least."""

import dataclasses
import json
import random

VOCABULARY = 151936
IDS = 10000  # prompts are drawn from the first ids, which are ordinary tokens in every tokenizer


@dataclasses.dataclass
class Sizes:
    """Of all scenarios. The second set, --quick, only shows that everything runs."""

    prefill: int = 512
    decode: int = 128
    batch: tuple = (32, 128, 32)  # sequences, tokens in, tokens out
    serving: tuple = (64, 25, 256)  # sequences, shortest and longest prompt and answer
    prefix: int = 2048
    suffix: int = 16
    contexts: tuple = (512, 2048, 8192)
    context_tokens: int = 16


QUICK = Sizes(32, 8, (4, 16, 4), (4, 5, 16), 64, 16, (64, 256), 4)


def random_prompts(seed, lengths):
    rng = random.Random(seed)
    return [[rng.randrange(IDS) for _ in range(n)] for n in lengths]


def serving_requests(sizes, seed=0):
    """nano-vLLM's benchmark: all requests at once, lengths of prompts and answers uniformly random. [(ids, tokens out)]"""
    count, low, high = sizes.serving
    rng = random.Random(seed)
    lengths = [(rng.randint(low, high), rng.randint(low, high)) for _ in range(count)]
    return list(zip(random_prompts(seed + 1, [n for n, _ in lengths]), [n for _, n in lengths]))


def write_requests(path, requests):
    path.write_text("".join(json.dumps({"prompt": ids, "output_tokens": out}) + "\n" for ids, out in requests))


@dataclasses.dataclass(frozen=True)
class Shape:
    """What one step of a decoder costs: parameters in its layers and in its head, and attention."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    def layer_parameters(self):
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return self.layers * (self.hidden * (2 * q + 2 * kv) + 3 * self.hidden * self.inner)

    def head_parameters(self):
        return self.hidden * self.vocabulary

    def operations(self, tokens, sampled, pairs):
        """Of `tokens` through the layers, `sampled` of them through the head, `pairs` of query and key; a multiply-add is two."""
        attention = 4 * self.layers * self.heads * self.head_dim * pairs
        return 2 * (tokens * self.layer_parameters() + sampled * self.head_parameters()) + attention

    def sequence(self, tokens_in, tokens_out):
        """(tokens, sampled, pairs) of one request; its last token is not computed on."""
        n = tokens_in + tokens_out - 1
        return n, tokens_out, n * (n + 1) // 2


QWEN3 = Shape(28, 1024, 3072, 16, 8, 128, VOCABULARY)
SMOLLM2 = Shape(30, 576, 1536, 9, 3, 64, 49152)


def bits(weights):
    """16, 8 or 4: entries of the same bits are compared."""
    return {"bf16": 16, "f16": 16, "int8": 8, "q8_0": 8}.get(weights, 4)


def least_seconds(limits, weights, operations, bytes_read):
    """The time the machine needs at least: arithmetic in registers, or the streaming read, whichever takes longer."""
    rate = max(limits["float32_gflops"], limits["bf16_gflops"]) if bits(weights) == 16 else \
        max(limits["int8_gops"], limits["float32_gflops"])
    return max(operations / rate / 1e9, bytes_read / limits["read_gbytes"] / 1e9)
