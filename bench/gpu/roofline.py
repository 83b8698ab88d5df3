"""The least time that a GPU needs for a workload: what must be computed at its measured peak, what must be read at its measured
bandwidth. Prompts are bound by arithmetic, decoding by reading the weights once a step and each sequence's keys and values."""


def prefill_seconds(shape, lengths, flops):
    """lengths: of the prompts; each ends in one sampled token."""
    operations = sum(shape.operations(n, 1, n * (n + 1) // 2) for n in lengths)
    return operations / flops


def decode_bytes(shape, requests, weight_bytes=2, kv_bytes=2):
    """requests: (tokens in, tokens out), all decoding at once from their first tokens on. A request of m tokens out takes part in
    m - 1 steps; the step that gives token t + 1 reads the keys and values of its prompt and of the t tokens before."""
    weights = (shape.layer_parameters() + shape.head_parameters()) * weight_bytes
    steps = max((out for _, out in requests), default=1) - 1
    token = 2 * shape.layers * shape.kv_heads * shape.head_dim * kv_bytes
    cached = sum((out - 1) * tokens_in + out * (out - 1) // 2 for tokens_in, out in requests)
    return steps * weights + cached * token


def workload_seconds(shape, requests, flops, bytes_per_second, weight_bytes=2):
    return (prefill_seconds(shape, [n for n, _ in requests], flops) +
            decode_bytes(shape, requests, weight_bytes) / bytes_per_second)
