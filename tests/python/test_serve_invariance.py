"""Batch invariance through HTTP: what a client gets does not depend on who else is served, byte for byte."""
import concurrent.futures
import json
import random

import pytest

from random_requests import comparable, events, request
from serving import Server


def ask(server, path, body):
    status, _, data = server.request("POST", path, body, timeout=120)
    assert status == 200, (body, data)
    return data


@pytest.fixture(scope="module")
def server():
    with Server("--max-num-seqs", 32, "--max-num-batched-tokens", 128, "--block-size", 8, "--kv-cache-memory-bytes", "1MiB") as server:
        yield server


def test_64_mixed_requests_at_once_are_each_as_if_alone(server):
    source = random.Random(5)
    requests = [request(source, max_tokens=60) for _ in range(64)]
    alone = [ask(server, *r) for r in requests]
    source.shuffle(order := list(range(64)))
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        futures = {i: pool.submit(ask, server, *requests[i]) for i in order}
        together = [futures[i].result() for i in range(64)]
    for (path, body), one, other in zip(requests, alone, together):
        streamed = body.get("stream", False)
        assert comparable(one, streamed) == comparable(other, streamed), (path, body)


def test_a_stream_is_the_whole_answer_in_pieces(server):
    source = random.Random(6)
    for _ in range(48):
        path, body = request(source)
        body.pop("stream_options", None)
        whole = json.loads(ask(server, path, {**body, "stream": False}))
        chunks = [json.loads(e) for e in events(ask(server, path, {**body, "stream": True,
                                                                    "stream_options": {"include_usage": True}}))]
        assert {**chunks[-1]["usage"], "prompt_tokens_details": 0} == {**whole["usage"], "prompt_tokens_details": 0}
        for choice in whole["choices"]:
            parts = [c["choices"][0] for c in chunks[:-1] if c["choices"][0]["index"] == choice["index"]]
            if "chat" in path:
                assert "".join(p["delta"]["content"] for p in parts) == choice["message"]["content"]
            else:
                assert "".join(p["text"] for p in parts) == choice["text"]
            assert [p["finish_reason"] for p in parts[:-1]] == [None] * (len(parts) - 1)
            assert parts[-1]["finish_reason"] == choice["finish_reason"]
            assert parts[-1]["stop_reason"] == choice["stop_reason"]
            if "token_ids" in choice:
                assert sum((p.get("token_ids", []) for p in parts), []) == choice["token_ids"]
            if choice["logprobs"]:
                lists = [p["logprobs"] for p in parts if p["logprobs"]]
                for name, values in choice["logprobs"].items():
                    assert sum((part[name] for part in lists), []) == values, (name, body)
            if "prompt_logprobs" in choice:
                assert parts[0]["prompt_logprobs"] == choice["prompt_logprobs"]
