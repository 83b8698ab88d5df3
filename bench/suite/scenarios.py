"""The scenarios: which engines take part, how often each is run, and the limit of the machine for each figure."""

import dataclasses
import statistics

from . import workload
from .workload import QWEN3, SMOLLM2

KV_BYTES = 2  # of a key's or value's element, in every engine that is compared at 16 bits


@dataclasses.dataclass
class Metric:
    key: str
    title: str
    unit: str  # "tokens/s": more is better; "s", "x", "MB", "ms": shown as they are
    limit: object = None  # (scenario, weights, weights_bytes, limits, sizes) -> the best value the machine allows


@dataclasses.dataclass
class Scenario:
    key: str
    title: str
    method: str  # of the engines
    metrics: list
    engines: tuple  # NAME/WEIGHTS
    rounds: int = 3
    shape: workload.Shape = QWEN3

    def kv_bytes(self, tokens):
        return tokens * self.shape.layers * 2 * self.shape.kv_heads * self.shape.head_dim * KV_BYTES


def prefill_limit(s, weights, weights_bytes, limits, sizes):
    n = sizes.prefill
    return n / workload.least_seconds(limits, weights, s.shape.operations(*s.shape.sequence(n, 1)), weights_bytes)


def decode_limit(s, weights, weights_bytes, limits, sizes):
    n, context = sizes.decode, 8 + sizes.decode / 2
    return n / workload.least_seconds(limits, weights, s.shape.operations(n, n, n * context),
                                      n * (weights_bytes + s.kv_bytes(context)))


def batch_decode_limit(s, weights, weights_bytes, limits, sizes):
    count, tokens_in, tokens_out = sizes.batch
    n, context = count * (tokens_out - 1), tokens_in + tokens_out / 2
    return n / workload.least_seconds(limits, weights, s.shape.operations(n, n, n * context),
                                      (tokens_out - 1) * weights_bytes + n * s.kv_bytes(context))


def batch_total_limit(s, weights, weights_bytes, limits, sizes):
    count, tokens_in, tokens_out = sizes.batch
    operations = count * s.shape.operations(*s.shape.sequence(tokens_in, tokens_out))
    return count * (tokens_in + tokens_out) / workload.least_seconds(limits, weights, operations, tokens_out * weights_bytes)


def serving_limit(s, weights, weights_bytes, limits, sizes):
    requests = [(len(ids), out) for ids, out in workload.serving_requests(sizes)]
    operations = sum(s.shape.operations(*s.shape.sequence(*r)) for r in requests)
    steps = max(out for _, out in requests)
    return sum(out for _, out in requests) / workload.least_seconds(limits, weights, operations, steps * weights_bytes)


def load_limit(s, weights, weights_bytes, limits, sizes):
    return weights_bytes / limits["read_gbytes"] / 1e9


QWEN_ENGINES = ("nano-vLLM/bf16", "llama.cpp/bf16", "OpenVINO GenAI/f16", "nano-vLLM/int8", "llama.cpp/q8_0",
                "OpenVINO GenAI/q8_0", "nano-vLLM/int4", "llama.cpp/q4_0")
PREFILL = Metric("rate", "prefill, {prefill} tokens", "tokens/s", prefill_limit)
DECODE = Metric("rate", "decode, 1 sequence", "tokens/s", decode_limit)
SMOL_ENGINES = ("nano-vLLM/q4_1", "llama.cpp/q4_1")

SCENARIOS = [
    Scenario("prefill", "Prefill", "prefill", [PREFILL], QWEN_ENGINES),
    Scenario("decode", "Decode, 1 sequence", "decode", [DECODE], QWEN_ENGINES),
    Scenario("batch", "32 sequences at once", "batch",
             [Metric("decode_rate", "decode, {batch[0]} sequences", "tokens/s", batch_decode_limit),
              Metric("total_rate", "{batch[0]} × ({batch[1]} in, {batch[2]} out), all tokens", "tokens/s", batch_total_limit)],
             QWEN_ENGINES),
    Scenario("serving", "nano-vLLM's workload", "serving",
             [Metric("output_rate", "{serving[0]} sequences, random {serving[1]}–{serving[2]} in and out, output tokens",
                     "tokens/s", serving_limit),
              Metric("peak_memory_bytes", "peak memory of it", "MB")],
             QWEN_ENGINES[:5] + QWEN_ENGINES[5:6], rounds=1),
    Scenario("smollm2-prefill", "SmolLM2-135M Q4_1, prefill", "prefill", [PREFILL], SMOL_ENGINES, shape=SMOLLM2),
    Scenario("smollm2-decode", "SmolLM2-135M Q4_1, decode", "decode", [DECODE], SMOL_ENGINES, shape=SMOLLM2),
    Scenario("prefix", "A prefix already cached", "prefix",
             [Metric("cold", "first token after {prefix} + {suffix} tokens, cold", "s"),
              Metric("cached", "the same, {prefix} tokens cached", "s"),
              Metric("gain", "cold / cached", "x")],
             ("nano-vLLM/bf16", "llama.cpp/bf16", "OpenVINO GenAI/f16"), rounds=1),
    Scenario("load", "Start from the page cache", "load",
             [Metric("ready", "from the start of the process until a first request can start", "s", load_limit),
              Metric("first_token", "until the first token of a prompt of one token", "s"),
              Metric("peak_memory_bytes", "peak memory until then", "MB"),
              Metric("beyond_weights_and_kv_bytes", "peak memory beyond weights and a full KV cache", "MB")],
             ("nano-vLLM/bf16", "llama.cpp/bf16", "OpenVINO GenAI/f16", "nano-vLLM/int8", "OpenVINO GenAI/q8_0")),
    Scenario("context", "Decode against context", "context",
             [Metric("slope", "each 1,000 tokens of context add", "ms"),
              Metric("slope_share", "the KV cache is read at, of the read limit", "%")],
             ("nano-vLLM/bf16", "llama.cpp/bf16"), rounds=1),
]


def by_key(key):
    return next(s for s in SCENARIOS if s.key == key)


def slope(points):
    """Least squares over {x: y}."""
    points = {float(x): y for x, y in points.items()}
    mx, my = statistics.mean(points), statistics.mean(points.values())
    return sum((x - mx) * (y - my) for x, y in points.items()) / sum((x - mx) ** 2 for x in points)


def derive(scenario, figures, limits):
    """Adds what follows from the figures of one run."""
    if scenario.key == "prefix":
        figures["gain"] = figures["cold"] / figures["cached"]
    if scenario.key == "context":
        per_token = slope(figures["seconds_per_token"])
        figures["slope"] = per_token * 1e6
        figures["slope_share"] = 100 * scenario.kv_bytes(1) / limits["read_gbytes"] / 1e9 / per_token
    return figures
