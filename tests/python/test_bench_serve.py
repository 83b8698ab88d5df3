"""bench serve against a server made of a few lines, which knows what it was asked and when it answered."""
import asyncio
import contextlib
import json
import threading
import time

import pytest


class FakeServer:
    """Streams `max_tokens` chunks, cut into pieces that fit nothing; notes every request."""

    def __init__(self, usage=True, fail_every=0, gap=0.002, keep_alive=True):
        self.usage, self.fail_every, self.gap, self.keep_alive = usage, fail_every, gap, keep_alive
        self.requests, self.connections = [], 0
        self.running = self.most_running = 0

    async def handle(self, reader, writer):
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self.answer(reader, writer) and self.keep_alive:
                pass
        writer.close()

    async def answer(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (text.split(": ", 1) for text in lines)}
        if line.startswith("GET /v1/models"):
            return await self.send(writer, 200, {"data": [{"id": "fake", "meta": {"n_vocab": 50}}]})
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self.requests.append((line, headers, body, time.monotonic()))
        if self.fail_every and len(self.requests) % self.fail_every == 0:
            return await self.send(writer, 429, {"error": {"message": "too many"}})
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await self.stream(writer, body)
        self.running -= 1
        return True

    async def send(self, writer, status, body):
        text = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(text), text))
        await writer.drain()
        return True

    async def stream(self, writer, body):
        chat = "messages" in body
        count = body["max_completion_tokens" if chat else "max_tokens"]
        prompt = len(body["messages"][0]["content"].split() if chat else body["prompt"])
        events = []
        if chat:
            events.append({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for i in range(count):
            finish = "length" if i + 1 == count else None
            content = {"delta": {"content": "\u20ac"}} if chat else {"text": "\u20ac"}
            events.append({"choices": [{**content, "finish_reason": finish}]})
        if self.usage:
            events.append({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": count}})
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for event in events + ["[DONE]"]:
            data = event if event == "[DONE]" else json.dumps(event, ensure_ascii=False)
            data = f"data: {data}\n\n".encode()
            cut = len(data) // 2
            for piece in (data[:cut], data[cut:]):
                writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                await writer.drain()
                await asyncio.sleep(self.gap / 2)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


@contextlib.contextmanager
def serving(**options):
    fake, ready = FakeServer(**options), threading.Event()
    loop = asyncio.new_event_loop()

    async def start():
        fake.server = await asyncio.start_server(fake.handle, "127.0.0.1", 0)
        fake.port = fake.server.sockets[0].getsockname()[1]
        ready.set()

    def run():
        loop.create_task(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield fake
    loop.call_soon_threadsafe(fake.server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def bench(cli, fake, *flags, **more):
    result = cli("bench", "serve", "--port", fake.port, *flags, "--json", **more)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout), result.stderr.decode()


@pytest.mark.parametrize("endpoint", ["/v1/completions", "/v1/chat/completions"])
def test_closed_loop(cli, endpoint, tmp_path):
    with serving() as fake:
        result, _ = bench(cli, fake, "--endpoint", endpoint, "--num-prompts", 20, "--max-concurrency", 4,
                          "--random-input-len", 12, "--random-prefix-len", 3, "--random-output-len", 6, "--ignore-eos",
                          "--header", "X-Test=1", "--extra-body", '{"priority": 3}', "--percentile-metrics",
                          "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99.5", "--save-detailed",
                          "--result-dir", tmp_path, "--result-filename", "r.json")
    measured = fake.requests[1:]  # the first shows that the server works
    assert fake.most_running == 4 and fake.connections <= 6 and len(measured) == 20
    assert result["completed"] == 20 and result["failed"] == 0 and result["max_concurrent_requests"] == 4
    assert result["total_input_tokens"] == 20 * 15 and result["total_output_tokens"] == 20 * 6
    assert result["model_id"] == "fake" and result["request_rate"] == "inf"
    for line, headers, body, _ in measured:
        assert line == f"POST {endpoint} HTTP/1.1" and headers["x-test"] == "1"
        assert body["priority"] == 3 and body["ignore_eos"] is True and body["model"] == "fake"
        assert body["stream_options"] == {"include_usage": True}
        if "prompt" in body:
            assert max(body["prompt"]) < 50 and body["prompt"][:3] == measured[0][2]["prompt"][:3]
    assert len({json.dumps(body) for _, _, body, _ in measured}) == 20
    assert 4 < result["median_itl_ms"] * 2 and result["p99.5_ttft_ms"] >= result["p50_ttft_ms"] > 0
    assert result["mean_e2el_ms"] > result["mean_ttft_ms"] + 4 * result["mean_tpot_ms"]
    detailed = json.loads((tmp_path / "r.json").read_text())
    assert detailed["output_lens"] == [6] * 20 and all(len(gaps) == 5 for gaps in detailed["itls"])
    assert detailed["mean_ttft_ms"] == result["mean_ttft_ms"]


def test_open_loop_keeps_its_rate_whatever_the_server_does(cli):
    with serving(gap=0.02) as fake:
        result, _ = bench(cli, fake, "--num-prompts", 40, "--request-rate", 40, "--random-input-len", 4,
                          "--random-output-len", 20, "--random-range-ratio", 0.5)
    times = [at for _, _, _, at in fake.requests[1:]]
    assert 0.7 < times[-1] - times[0] < 2.5 and fake.most_running > 5
    assert result["completed"] == 40 and result["request_rate"] == 40
    assert len({body["max_tokens"] for _, _, body, _ in fake.requests}) > 5


def test_failures_are_counted_and_said(cli):
    with serving(fail_every=5) as fake:
        result, stderr = bench(cli, fake, "--num-prompts", 12, "--random-input-len", 4, "--random-output-len", 2)
    assert result["failed"] == 2 and result["completed"] == 10
    assert stderr.count("a request failed: status 429: too many") == 1


def test_without_usage_and_without_kept_connections(cli):
    with serving(usage=False, keep_alive=False) as fake:
        result, _ = bench(cli, fake, "--num-prompts", 5, "--random-input-len", 7, "--random-output-len", 3)
    assert result["total_output_tokens"] == 15 and result["total_input_tokens"] == 35


def test_the_key_and_the_table(cli, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving() as fake:
        result = cli("bench", "serve", "--base-url", f"http://localhost:{fake.port}/", "--num-prompts", 2,
                     "--random-input-len", 4, "--random-output-len", 3)
    table = result.stdout.decode()
    assert "Successful requests:                     2 " in table and "Mean TTFT (ms):" in table
    assert "P99 ITL (ms):" in table
    assert all(headers["authorization"] == "Bearer secret" for _, headers, _, _ in fake.requests)


def test_what_is_wrong_is_said(cli):
    with serving(fail_every=1) as fake:
        refused = cli("bench", "serve", "--port", fake.port)
    assert refused.returncode == 1 and b"/v1/completions: status 429: too many" in refused.stderr
    closed = cli("bench", "serve", "--port", fake.port)
    assert closed.returncode == 1 and b"onnection" in closed.stderr
    for flags, word in [(["--base-url", "https://x"], b"TLS"), (["--request-rate", "0"], b"--request-rate"),
                        (["--endpoint", "/x"], b"--endpoint"), (["--header", "x"], b"--header"),
                        (["--metric-percentiles", "101"], b"--metric-percentiles"),
                        (["--dataset-name", "sonnet"], b"--dataset-name")]:
        result = cli("bench", "serve", *flags)
        assert result.returncode == 2 and word in result.stderr
