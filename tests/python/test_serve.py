"""serve, as clients meet it: the `openai` package, streams against whole answers, errors, shutting down."""

import asyncio
import json
import signal
import threading
import time

import openai
import pytest

from conftest import TINY
from serving import Raw, Server, completion, head, stream_events, wait_until

MESSAGES = [{"role": "user", "content": "Hello there"}]


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def joined_completion(chunks):
    """What a stream's chunks add up to, in the shape of the whole answer's choices."""
    choices = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            whole = choices.setdefault(part["index"], {"text": "", "logprobs": None, "token_ids": []})
            whole["text"] += part["text"]
            for key, values in (part["logprobs"] or {}).items():
                whole["logprobs"] = whole["logprobs"] or {}
                whole["logprobs"].setdefault(key, []).extend(values)
            whole["token_ids"] += part.get("token_ids", [])
            for key in ("finish_reason", "stop_reason"):
                whole[key] = part[key]
            for key in ("prompt_token_ids", "prompt_logprobs"):
                if key in part:
                    whole[key] = part[key]
    return [choices[i] for i in sorted(choices)]


def joined_chat(chunks):
    choices = {}
    for chunk in chunks:
        for part in chunk["choices"]:
            whole = choices.setdefault(part["index"], {"content": "", "logprobs": None, "role": None})
            whole["role"] = part["delta"].get("role", whole["role"])
            whole["content"] += part["delta"].get("content", "")
            if part["logprobs"]:
                whole["logprobs"] = (whole["logprobs"] or []) + part["logprobs"]["content"]
            whole["finish_reason"] = part["finish_reason"]
    return [choices[i] for i in sorted(choices)]


STREAMED = [
    {"prompt": "hello", "max_tokens": 30},
    {"prompt": "hello", "max_tokens": 30, "temperature": 1, "seed": 3, "n": 3, "logprobs": 2},
    {"prompt": ["hello", "goodbye", "you"], "max_tokens": 9, "temperature": 1, "seed": 3, "n": 2},
    {"prompt": [[5, 6, 7], [8]], "max_tokens": 9, "return_token_ids": True, "logprobs": 0},
    {"prompt": "hello there", "max_tokens": 5, "echo": True, "logprobs": 3},
    {"prompt": "hello there", "max_tokens": 0, "echo": True, "logprobs": 1},
    {"prompt": "hello there", "max_tokens": 5, "echo": True, "logprobs": 1, "n": 3, "temperature": 1, "seed": 1},
    {"prompt": "hello", "max_tokens": 60, "stop": ["e", "n"], "temperature": 1, "seed": 9},
    {"prompt": "hello", "max_tokens": 60, "stop_token_ids": list(range(60, 200)), "temperature": 1, "seed": 2},
    {"prompt": "hello", "max_tokens": 8, "prompt_logprobs": 1, "return_tokens_as_token_ids": True, "logprobs": 1},
]


class TestStreaming:
    @pytest.mark.parametrize("body", STREAMED, ids=lambda b: "-".join(b))
    def test_a_completion_streamed_adds_up_to_the_whole(self, server, body):
        body = {"temperature": 0, **body}
        status, _, whole = server.post("/v1/completions", body)
        assert status == 200, whole
        with server.connect() as raw:
            streaming = {**body, "stream": True, "stream_options": {"include_usage": True}}
            status, headers, data = raw.send(head(body=json.dumps(streaming).encode())).response()
        assert status == 200 and headers["content-type"].startswith("text/event-stream")
        *chunks, last = stream_events(data)
        assert last["choices"] == [] and all(chunk["usage"] is None for chunk in chunks)
        last["usage"].pop("prompt_tokens_details"), whole["usage"].pop("prompt_tokens_details")
        assert last["usage"] == whole["usage"]
        for got, wanted in zip(joined_completion(chunks), whole["choices"], strict=True):
            for key in wanted.keys() - {"index"}:
                assert got[key] == wanted[key], key
        assert len({chunk["id"] for chunk in chunks}) == 1

    @pytest.mark.parametrize(
        "more", [{}, {"n": 3, "temperature": 1, "seed": 4}, {"logprobs": True, "top_logprobs": 3}], ids=["one", "n", "logprobs"]
    )
    def test_a_chat_streamed_adds_up_to_the_whole(self, server, more):
        body = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0, **more}
        _, _, whole = server.post("/v1/chat/completions", body)
        with server.connect() as raw:
            request = head("/v1/chat/completions", json.dumps({**body, "stream": True}).encode())
            chunks = stream_events(raw.send(request).response()[2])
        assert all("usage" not in chunk for chunk in chunks)
        for got, wanted in zip(joined_chat(chunks), whole["choices"], strict=True):
            assert got["content"] == wanted["message"]["content"] and got["role"] == "assistant"
            assert got["logprobs"] == (wanted["logprobs"] and wanted["logprobs"]["content"])
            assert got["finish_reason"] == wanted["finish_reason"]

    def test_usage_in_every_chunk(self, server):
        options = {"include_usage": True, "continuous_usage_stats": True}
        with server.connect() as raw:
            raw.send(head(body=completion(stream=True, stream_options=options, ignore_eos=True)))
            *chunks, last = stream_events(raw.response()[2])
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts) and counts[-1] == 4 == last["usage"]["completion_tokens"]

    def test_the_first_chunk_comes_before_the_answer_is_done(self, server):
        with server.connect() as raw:
            raw.send(head(body=completion(max_tokens=1500, stream=True, ignore_eos=True)))
            raw.file.readline()
            began = time.monotonic()
            while not raw.file.readline().startswith(b"data: "):
                pass
            first = time.monotonic() - began
            while b"[DONE]" not in raw.file.readline():
                pass
            assert first < (time.monotonic() - began) / 3


class TestOpenaiClient:
    def test_chat(self, client):
        whole = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=9)
        parts = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=0, max_tokens=9, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert text == whole.choices[0].message.content
        assert whole.usage.total_tokens == whole.usage.prompt_tokens + 9
        # The answer goes back in the next turn as the client holds it.
        messages = [*MESSAGES, whole.choices[0].message, {"role": "user", "content": "and?"}]
        again = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=9)
        assert again.usage.prompt_tokens_details.cached_tokens > 0

    def test_completions(self, client):
        whole = client.completions.create(model="tiny", prompt="hello", temperature=0, max_tokens=9, logprobs=1)
        parts = client.completions.create(model="tiny", prompt="hello", temperature=0, max_tokens=9, stream=True)
        assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
        assert len(whole.choices[0].logprobs.token_logprobs) == 9

    def test_models(self, client):
        assert [model.id for model in client.models.list()] == ["tiny"]
        assert client.models.retrieve("tiny").id == "tiny"

    def test_errors_are_the_client_s(self, client):
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="another", prompt="hello")
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model="tiny", prompt="hello", temperature=-1)
        assert error.value.param == "temperature"
        with pytest.raises(openai.BadRequestError) as error:
            client.completions.create(model="tiny", prompt="hello", extra_body={"tempratur": 1})
        assert error.value.param == "tempratur"

    def test_64_mixed_requests_at_once_equal_each_alone(self, server):
        def body(i):
            request = {
                "model": "tiny", "prompt": ["hello", "once upon a time " * (i % 7 + 1), "x"][i % 3], "max_tokens": 5 + i,
                "temperature": i % 2, "seed": i, "logprobs": i % 3, "stop": ["q"] if i % 5 == 0 else None,
            }
            return request | ({"presence_penalty": 0.5} if i % 4 == 0 else {})

        async def run():
            client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
            one = lambda i: client.completions.create(**body(i))  # noqa: E731
            async with client:
                together = await asyncio.gather(*(one(i) for i in range(64)))
                alone = [await one(i) for i in range(64)]

                async def streamed(i):
                    return [part async for part in await client.completions.create(**body(i), stream=True)]

                streams = await asyncio.gather(*(streamed(i) for i in range(64)))
            return together, alone, streams

        together, alone, streams = asyncio.run(run())
        for a, b, parts in zip(together, alone, streams, strict=True):
            assert a.choices == b.choices
            assert "".join(part.choices[0].text for part in parts) == b.choices[0].text


class TestRequests:
    def test_scoring_a_batch_of_prompts_as_an_evaluation_does(self, server):
        prompts = [[5, 6, 7, 8], [9, 10]]
        for extra in (0, 1):
            body = {"model": "tiny", "prompt": prompts, "max_tokens": extra, "temperature": 0, "logprobs": 1, "seed": 1234, "echo": True}
            _, _, answer = server.post("/v1/completions", body)
            for choice, prompt in zip(answer["choices"], prompts, strict=True):
                scores = choice["logprobs"]["token_logprobs"]
                assert len(scores) == len(prompt) + extra and scores[0] is None and max(scores[1:]) < 0

    def test_tokenize_there_and_back(self, server):
        _, _, there = server.post("/tokenize", {"prompt": "Hello there", "return_token_strs": True})
        assert there["count"] == len(there["tokens"]) == len(there["token_strs"]) and there["max_model_len"] > 0
        assert server.post("/detokenize", {"tokens": there["tokens"]})[2] == {"prompt": "Hello there"}

    def test_tokenize_counts_a_chat_as_the_chat_does(self, server):
        _, _, count = server.post("/tokenize", {"messages": MESSAGES})
        _, _, chat = server.post("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 1, "return_token_ids": True})
        assert count["tokens"] == chat["prompt_token_ids"] and count["count"] == chat["usage"]["prompt_tokens"]

    @pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'"x"', b"\xff", b'{"prompt": "\xff"}', b"[" * 200, b'{"a":' * 101], ids=repr)
    def test_bodies_that_are_none(self, server, path, body):
        status, _, error = server.post(path, body)
        assert status == 400 and set(error["error"]) == {"message", "type", "param", "code"}

    @pytest.mark.parametrize(
        ("path", "body", "field"),
        [
            ("/v1/completions", {"prompt": "x", "nonsense": 1}, "nonsense"),
            ("/v1/completions", {"prompt": "x", "messages": MESSAGES}, "messages"),
            ("/v1/chat/completions", {"messages": MESSAGES, "prompt": "x"}, "prompt"),
            ("/v1/completions", {"prompt": "x", "stream": True, "stream_options": {"a": 1}}, "stream_options.a"),
            ("/v1/completions", {"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
            ("/v1/completions", {"prompt": "x", "use_beam_search": True}, "use_beam_search"),
            ("/v1/completions", {"prompt": "x", "store": True}, "store"),
            ("/v1/completions", {"prompt": "x", "max_tokens": 10**6}, "max_tokens"),
            ("/v1/completions", {"prompt": ["x"] * 2000}, "prompt"),
            ("/v1/completions", {"prompt": [[]]}, "prompt"),
            ("/tokenize", {"prompt": "x", "nonsense": 1}, "nonsense"),
            ("/tokenize", {}, "prompt"),
            ("/detokenize", {"tokens": [10**6]}, "tokens"),
            ("/detokenize", {"tokens": [1], "nonsense": 1}, "nonsense"),
        ],
    )
    def test_a_refusal_names_the_field(self, server, path, body, field):
        status, _, error = server.post(path, body)
        assert status == 400 and error["error"]["param"] == field

    @pytest.mark.parametrize(
        ("path", "body", "field"),
        [
            ("/v1/completions", {"prompt": [5] * 3000}, "prompt"),
            ("/v1/completions", {"prompt": [5] * 10, "max_tokens": 3000}, "max_tokens"),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 3000}]}, "messages"),
            ("/v1/completions", {"prompt": [[5], [10**6]]}, "prompt"),
        ],
    )
    def test_what_can_never_run_is_refused_while_others_wait(self, path, body, field):
        with Server("--max-num-seqs", 1) as server, server.connect() as first, server.connect() as second:
            for raw in (first, second):  # not streaming: who does not read events is dropped after some time
                raw.send(head(body=completion(n=1000, temperature=1, max_tokens=1500, ignore_eos=True)))
            wait_until(lambda: server.metric("key_requests_waiting") == 1)
            status, _, error = server.post(path, body)
            assert status == 400 and error["error"]["param"] == field, error
            assert server.metric("key_requests_waiting") == 1

    def test_what_asks_for_nothing_is_taken(self, server):
        harmless = {
            "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "s",
            "prompt_cache_key": "k", "request_id": "mine", "cache_salt": "s", "priority": 3,
        }
        status, _, answer = server.post("/v1/completions", json.loads(completion(**harmless)))
        assert status == 200 and answer["id"] == "cmpl-mine"
        assert server.post("/v1/completions", completion(), **{"X-Request-Id": "yours"})[2]["id"] == "cmpl-yours"

    def test_the_model_s_name(self, server):
        assert server.post("/v1/completions", completion())[2]["model"] == "tiny"
        for path, body in [("/v1/completions", json.loads(completion(model="x"))), ("/tokenize", {"prompt": "x", "model": "x"})]:
            status, _, error = server.post(path, body)
            assert status == 404 and error["error"]["type"] == "NotFoundError" and error["error"]["param"] == "model"
        assert server.get("/v1/models/x")[0] == 404

    def test_paths_and_methods(self, server):
        assert server.get("/health") [0] == 200
        assert server.get("/version")[2]["version"]
        assert server.get("/nothing/here")[0] == 404
        status, headers, error = server.get("/v1/completions")
        assert status == 405 and headers["Allow"] == "POST" and error["error"]["code"] == 405
        assert server.post("/v1/models", {})[0] == 405
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            assert server.post("/v1/completions", completion(), **{"Content-Type": kind})[0] == 415

    def test_without_a_tokenizer(self):
        with Server(model=TINY / "llama") as server:
            status, _, answer = server.post("/v1/completions", {"prompt": [1, 2], "max_tokens": 3, "logprobs": 0, "stream": False})
            assert status == 200 and answer["choices"][0]["text"] == ""
            assert answer["choices"][0]["logprobs"]["tokens"][0].startswith("token_id:")
            assert server.post("/v1/completions", {"prompt": "text"})[0] >= 400
            assert server.post("/tokenize", {"prompt": "x"})[0] == 400
            assert server.post("/v1/chat/completions", {"messages": MESSAGES})[0] == 400


class TestShutdown:
    LONG = completion(max_tokens=1500, ignore_eos=True, stream=True)

    def test_what_runs_is_finished(self):
        with Server() as server, server.connect() as raw, server.connect() as idle:
            raw.send(head(body=self.LONG)).file.readline()
            server.process.send_signal(signal.SIGTERM)
            assert idle.is_closed()
            while b"[DONE]" not in raw.file.readline():
                pass
            assert server.process.wait(30) == 0
            with pytest.raises(ConnectionRefusedError):
                Raw(server.port)

    def test_or_aborted_after_the_time_given(self):
        # The stream is not read before its end, so much of it waits in the server.
        flags = ("--shutdown-timeout", 0.3, "--max-num-seqs", 1, "--max-unsent-bytes", "64MiB")
        with Server(*flags) as server, server.connect() as raw, server.connect() as whole:
            # One after another these would take minutes.
            many = {"n": 1000, "temperature": 1, "max_tokens": 1500, "ignore_eos": True}
            raw.send(head(body=completion(stream=True, **many))).file.readline()
            whole.send(head(body=completion(**many)))
            wait_until(lambda: server.metric("key_requests_waiting") == 1)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            status, headers, error = whole.response()
            assert status == 503 and json.loads(error)["error"]["code"] == 503
            text = raw.file.read()
            assert b'"error"' in text and b"data: [DONE]" in text
            assert server.process.wait(30) == 0 and time.monotonic() - began < 20

    def test_a_second_signal_ends_it_at_once(self):
        server = Server("--max-num-seqs", 1)
        with server.connect() as raw:
            raw.send(head(body=completion(n=1000, temperature=1, max_tokens=1500, ignore_eos=True, stream=True))).file.readline()
            server.process.send_signal(signal.SIGTERM)
            assert server.wait_for_log("shutting down") and server.process.poll() is None
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(30) == 128 + signal.SIGTERM

    def test_an_address_in_use_is_said_before_the_model_is_loaded(self, cli, server):
        result = cli("serve", "no-such-model", "--port", server.port)
        assert result.returncode == 1 and b"in use" in result.stderr

    def test_other_hosts_need_keys(self, cli):
        result = cli("serve", "--host", "0.0.0.0")
        assert result.returncode == 2 and b"--host" in result.stderr


def test_requests_of_many_threads_at_once(server):
    answers = []

    def ask():
        answers.append(server.post("/v1/completions", completion())[2]["choices"][0]["text"])

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 32 and len(set(answers)) == 1
