#!/usr/bin/env python3
"""A server among all kinds of clients: answers that are checked, streams left at any byte, requests left at any byte, half-open
connections, garbage, readers that do not read, limits exceeded. Some answers are compared, byte for byte, with those of the
server when it was quiet. In the end nothing may be left behind: the server says so itself (its exit code: sequences, blocks,
integrity), its memory has not grown, and it still answers.

    python tests/python/soak_serve.py --seconds 1200 [--server BINARY] [--model FOLDER] [--clients 32] [--seed N]

tests/python/test_soak.py runs it for a minute."""
import argparse
import asyncio
import collections
import contextlib
import json
import pathlib
import random
import socket
import struct
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import random_requests
from serving import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = ["--max-num-seqs", "12", "--max-num-batched-tokens", "64", "--block-size", "8", "--kv-cache-memory-bytes", "512KiB",
         "--max-model-len", "1024", "--max-body-size", "256KiB", "--timeout-header", "3", "--timeout-body", "3",
         "--timeout-write", "3", "--timeout-keep-alive", "5", "--max-unsent-bytes", "512KiB"]


class Wrong(Exception):
    """The server did what it must not."""


def head(method, path, length=None, more=""):
    lines = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{more}"
    if length is not None:
        lines += f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return (lines + "\r\n").encode()


def wire(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head("POST", path, len(data)) + data


async def read_response(reader):
    """(status, body) of one response; the body of a chunked one is put together."""
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    status = int(status_line.split()[1])
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
        return status, body
    if "content-length" in headers:
        return status, await reader.readexactly(int(headers["content-length"]))
    return status, b"" if status == 204 else await reader.read()


class Soak:
    def __init__(self, server, seed, pool_size, seconds):
        self.server, self.random, self.seconds = server, random.Random(seed), seconds
        self.counts = collections.Counter()
        self.held = collections.deque()  # half-open connections
        source = random.Random(seed + 1)
        self.pool = [random_requests.request(source) for _ in range(pool_size)]
        self.expected = []
        self.memory = []  # (seconds, bytes)

    @contextlib.asynccontextmanager
    async def connection(self, receive_buffer=None):
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.server.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 22)
        try:
            yield reader, writer
        finally:
            if self.random.random() < 0.3:  # with a reset instead of a farewell
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort() if self.random.random() < 0.3 else writer.close()

    def check(self, index, status, data):
        path, body = self.pool[index]
        if status != 200:
            raise Wrong(f"status {status} for {path} {body}: {data[:500]}")
        if self.expected[index] != random_requests.comparable(data, body.get("stream", False)):
            raise Wrong(f"another answer than when it was quiet: {path} {body}: {data[:2000]}")

    # What clients do. Each ends by itself.

    async def ask(self):
        async with self.connection() as (reader, writer):
            for _ in range(self.random.randint(1, 4)):
                index = self.random.randrange(len(self.pool))
                writer.write(wire(*self.pool[index]))
                self.check(index, *await read_response(reader))

    async def ask_twice_at_once(self):
        """Pipelined: the answers come in order."""
        first, second = (self.random.randrange(len(self.pool)) for _ in range(2))
        async with self.connection() as (reader, writer):
            writer.write(wire(*self.pool[first]) + wire(*self.pool[second]))
            self.check(first, *await read_response(reader))
            self.check(second, *await read_response(reader))

    async def ask_in_pieces(self):
        index = self.random.randrange(len(self.pool))
        data = wire(*self.pool[index])
        async with self.connection() as (reader, writer):
            while data:
                size = self.random.randint(1, 1 + len(data) // 2)
                writer.write(data[:size])
                data = data[size:]
                await asyncio.sleep(self.random.random() * 0.02)
            self.check(index, *await read_response(reader))

    async def leave_while_reading(self):
        path, body = self.pool[self.random.randrange(len(self.pool))]
        body = {**body, "stream": True, "ignore_eos": True}
        body["max_completion_tokens" if "messages" in body else "max_tokens"] = 200
        async with self.connection() as (reader, writer):
            writer.write(wire(path, body))
            left = self.random.choice([0, 1, 200, 1000, self.random.randrange(30000)])
            while left > 0 and (data := await reader.read(min(left, 1000))):
                left -= len(data)

    async def leave_while_writing(self):
        data = wire(*self.pool[self.random.randrange(len(self.pool))])
        async with self.connection() as (reader, writer):
            writer.write(data[:self.random.randrange(len(data))])
            await writer.drain()
            await asyncio.sleep(self.random.random() * 0.1)

    async def stay_half_open(self):
        data = wire(*self.pool[self.random.randrange(len(self.pool))])
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(data[:self.random.randrange(len(data))])
        self.held.append(writer)
        if len(self.held) > 200:
            self.held.popleft().transport.abort()

    async def close_the_sending_side(self):
        index = self.random.randrange(len(self.pool))
        async with self.connection() as (reader, writer):
            writer.write(wire(*self.pool[index]))
            writer.write_eof()
            data = await reader.read()
            if data and not data.startswith(b"HTTP/1.1 "):
                raise Wrong(f"an answer that begins with {data[:100]}")

    async def read_slowly(self):
        path, body = self.pool[self.random.randrange(len(self.pool))]
        chat = "messages" in body
        body = {**body, "stream": True, "ignore_eos": True, "temperature": 1, "n": 4,
                "logprobs": True if chat else 20, **({"top_logprobs": 20} if chat else {})}
        body["max_completion_tokens" if chat else "max_tokens"] = 300
        async with self.connection(receive_buffer=2048) as (reader, writer):
            writer.write(wire(path, body))
            for _ in range(self.random.randrange(40)):
                if not await reader.read(self.random.randint(1, 500)):
                    break
                await asyncio.sleep(0.05)

    async def send_garbage(self):
        kinds = [lambda: self.random.randbytes(self.random.randrange(1, 4000)),
                 lambda: b"GET / HTTP/1.1\r\n" + self.random.randbytes(200) + b"\r\n\r\n",
                 lambda: b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                 lambda: head("POST", "/v1/completions", more="Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n")
                 + b"fffffffffffffffff\r\n",
                 lambda: head("GET", "/" + "x" * 100_000), lambda: head("GET", "/v1/models", more="X: y\r\n" * 20_000),
                 lambda: b"\r\n" * 1000, lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self.random.randbytes(500)]
        data = self.random.choice(kinds)()
        if self.random.random() < 0.3:
            data = bytearray(wire(*self.pool[self.random.randrange(len(self.pool))]))
            for _ in range(self.random.randint(1, 10)):
                data[self.random.randrange(len(data))] = self.random.randrange(256)
            data = bytes(data)
        async with self.connection() as (reader, writer):
            with contextlib.suppress(ConnectionError):
                writer.write(data)
                await asyncio.wait_for(reader.read(10_000), 10)

    async def exceed_limits(self):
        completion = "/v1/completions"
        kinds = [(completion, {"prompt": random_requests.ids(self.random, 1030, 1200), "max_tokens": 5}, 400),
                 (completion, {"prompt": "x", "max_tokens": 5, "temprature": 1}, 400),
                 (completion, {"prompt": "x", "temperature": -1}, 400), (completion, {"prompt": [999_999]}, 400),
                 (completion, {"prompt": []}, 400), (completion, {}, 400), (completion, b"[" * 50_000, 400),
                 (completion, b'{"prompt": "\xff\xfe"}', 400), (completion, b"{", 400),
                 (completion, b" " * 300_000, 413), ("/v1/chat/completions", {"messages": [{"role": 5}]}, 400),
                 (completion, {"prompt": "x", "model": "another"}, 404), ("/nothing", {}, 404),
                 (completion, {"prompt": ["x"] * 30, "n": 2, "temperature": 0}, 400)]
        path, body, wanted = self.random.choice(kinds)
        async with self.connection() as (reader, writer):
            writer.write(wire(path, body))
            status, data = await read_response(reader)
            if status != wanted or "error" not in json.loads(data):
                raise Wrong(f"status {status} instead of {wanted} for {path} {str(body)[:200]}: {data[:300]}")

    async def ask_for_other_things(self):
        async with self.connection() as (reader, writer):
            for path in ["/health", "/v1/models", "/version", "/openapi.json"]:
                writer.write(head("GET", path))
                status, _ = await read_response(reader)
                if status != 200:
                    raise Wrong(f"status {status} for {path}")
            writer.write(wire("/tokenize", {"prompt": random_requests.text(self.random)}))
            status, data = await read_response(reader)
            if status != 200 or json.loads(data)["count"] != len(json.loads(data)["tokens"]):
                raise Wrong(f"/tokenize: {status} {data[:300]}")

    async def client(self, end):
        kinds = {self.ask: 8, self.ask_twice_at_once: 2, self.ask_in_pieces: 2, self.leave_while_reading: 4,
                 self.leave_while_writing: 3, self.stay_half_open: 1, self.close_the_sending_side: 1, self.read_slowly: 2,
                 self.send_garbage: 3, self.exceed_limits: 3, self.ask_for_other_things: 1}
        strict = {self.ask, self.ask_twice_at_once, self.ask_in_pieces, self.exceed_limits, self.ask_for_other_things}
        while time.monotonic() < end:
            kind = self.random.choices(list(kinds), kinds.values())[0]
            self.counts[kind.__name__] += 1
            try:
                await asyncio.wait_for(kind(), 120)
            except (ConnectionError, asyncio.IncompleteReadError) as error:
                # The server may send bad clients away; 413 may come before all is sent.
                if kind in strict and kind != self.exceed_limits:
                    raise Wrong(f"{kind.__name__}: the server closed the connection: {error!r}") from error
                self.counts["closed by the server"] += 1
            except asyncio.TimeoutError as error:
                raise Wrong(f"{kind.__name__}: no answer in 120 seconds") from error

    async def watch(self, end):
        started = time.monotonic()
        while (now := time.monotonic()) < end:
            if self.server.process.poll() is not None:
                raise Wrong(f"the server has gone: {self.server.log()}")
            self.memory.append((now - started, self.server.memory()))
            if self.seconds > 120 and len(self.memory) % 30 == 1:
                print(f"{now - started:.0f} s: {self.memory[-1][1] / 2**20:.1f} MiB, {sum(self.counts.values())} done", flush=True)
            await asyncio.sleep(1)

    async def run(self, clients):
        for request in self.pool:  # quiet
            reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port, limit=1 << 22)
            writer.write(wire(*request))
            status, data = await read_response(reader)
            if status != 200:
                raise Wrong(f"status {status} for {request}: {data}")
            self.expected.append(random_requests.comparable(data, request[1].get("stream", False)))
            writer.close()
        end = time.monotonic() + self.seconds
        tasks = [asyncio.ensure_future(t) for t in [self.watch(end), *(self.client(end) for _ in range(clients))]]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        for writer in self.held:
            writer.transport.abort()
        for index in range(len(self.pool)):  # and quiet again
            async with self.connection() as (reader, writer):
                writer.write(wire(*self.pool[index]))
                self.check(index, *await read_response(reader))

    def check_memory(self):
        """The most of the last quarter beside the most of the second one."""
        quarter = len(self.memory) // 4
        if quarter < 3:
            return
        early = max(b for _, b in self.memory[quarter:2 * quarter])
        late = max(b for _, b in self.memory[-quarter:])
        print(f"memory: {early / 2**20:.1f} MiB in the second quarter, {late / 2**20:.1f} MiB in the last")
        if late > early * 1.1 + 4 * 2**20:
            raise Wrong(f"the memory grew from {early} to {late} bytes")


def soak(binary, model, seconds, clients=32, seed=1, memory=True, prefix=(), flags=()):
    with Server(*FLAGS, *flags, binary=binary, model=model, threads=2, prefix=prefix) as server:
        run = Soak(server, seed, pool_size=60, seconds=seconds)
        try:
            asyncio.run(run.run(clients))
            if memory:
                run.check_memory()
            code = server.stop(timeout=120)
            if code != 0:
                raise Wrong(f"exit code {code}")
        except Exception as error:
            alive = server.process.poll()
            raise Wrong(f"{error}\nseed {seed}; the server {'runs' if alive is None else f'has ended with {alive}'} and said:\n{server.log()[-5000:]}") from error
        return run.counts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--server", default=str(ROOT / "build/release/nano-vllm"))
    parser.add_argument("--model", default=str(ROOT / "tests/data/tiny/llama-chat"))
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true", help="do not look at the memory: sanitizers keep what is freed")
    arguments, flags = parser.parse_known_args()
    counts = soak(arguments.server, arguments.model, arguments.seconds, arguments.clients, arguments.seed,
                  not arguments.no_memory, flags=flags)
    for name, count in counts.most_common():
        print(f"{count:8} {name.replace('_', ' ')}")


if __name__ == "__main__":
    main()
