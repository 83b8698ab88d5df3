"""A running `nano-vllm serve` for tests, plain requests to it, and sockets to speak to it in ways that no client would."""

import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

from paths import BINARY, CHAT


class Server:
    """with Server("--max-num-seqs", 4) as server: server.url, server.port, server.process

    At the end of the block it is asked to leave and must exit with 0; it is killed if the block failed."""

    # One thread: the models are tiny, and the tests have the processors busy already.
    def __init__(self, *flags, model=CHAT, name="tiny", threads=1, binary=BINARY, env=None, prefix=(), start_timeout=120):
        self._log = tempfile.NamedTemporaryFile(suffix=".log")
        words = [*prefix, binary, "serve", model, "--port", 0, "--served-model-name", name, "--threads", threads, *flags]
        self.process = subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=self._log, env=env)
        # The whole line: half of it may hold half of the port.
        found = self.wait_for_log(r"listening on (\w+://\S+:(\d+))\n", start_timeout)
        if not found:
            self.kill()
            raise AssertionError(f"the server did not start: {self.log()}")
        self.url, self.port = found[1], int(found[2])

    def __enter__(self):
        return self

    def __exit__(self, failure, *_):
        if failure:
            self.kill()
        elif self.process.poll() is None:
            assert self.stop() == 0, self.log()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def stop(self, timeout=60):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def log(self):
        """What it wrote to stderr so far."""
        return pathlib.Path(self._log.name).read_text(errors="replace")

    def wait_for_log(self, pattern, seconds=30):
        """The match, as soon as there is one; none if the process ends or the time is up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ended = self.process.poll() is not None  # before the last look
            if found := re.search(pattern, self.log()):
                return found
            if ended:
                return None
            time.sleep(0.02)
        return None

    def request(self, method, path, body=None, headers=None, timeout=120):
        """(status, headers, bytes). A body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            fields = {**({} if data is None else {"Content-Type": "application/json"}), **(headers or {})}
            connection.request(method, path, data, fields)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post(self, path, body, **headers):
        """(status, headers, parsed body)"""
        status, fields, data = self.request("POST", path, body, headers)
        return status, fields, json.loads(data) if data else None

    def get(self, path, **headers):
        status, fields, data = self.request("GET", path, headers=headers)
        return status, fields, json.loads(data) if data else None

    def answer(self, path, body):
        """The parsed body of an answer that must be a 200."""
        status, _, body = self.post(path, body)
        assert status == 200, (status, body)
        return body

    def connect(self):
        return Raw(self.port)

    def metric(self, name):
        """The sum of a metric's samples."""
        values = re.findall(rf"^nano_vllm:{re.escape(name)}(?:{{.*}})? (\S+)$", self.request("GET", "/metrics")[2].decode(), re.M)
        assert values, f"no metric {name}"
        return sum(map(float, values))

    def memory(self):
        """Resident bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def wait_until(condition, seconds=60):
    """The condition's value as soon as it is true; fails if that takes longer than any machine, however busy, may take."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.02)
    return value


class Raw:
    """A socket: bytes out, responses in."""

    def __init__(self, port, timeout=60, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else data.encode())
        return self

    def response(self):
        """(status, headers with lower-case names, body); the body as its framing says."""
        line = self.file.readline()
        if not line:
            return None
        status = int(line.split()[1])
        headers = {}
        while (line := self.file.readline().rstrip(b"\r\n")):
            name, value = line.decode().split(":", 1)
            headers[name.lower()] = value.strip()
        if status < 200 or status == 204:
            return status, headers, b""
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.file.readline(), 16):
                body += self.file.read(size)
                self.file.readline()
            self.file.readline()
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        else:
            body = self.file.read()
        return status, headers, body

    def is_closed(self):
        """The server has closed its side and sent nothing more."""
        try:
            return self.file.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self):
        self.file.close()
        self.socket.close()


def head(path="/v1/completions", body=b"", method="POST", **headers):
    fields = {"Host": "localhost", "Content_Type": "application/json", "Content_Length": len(body), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def completion(**body):
    return json.dumps({"prompt": "hello", "max_tokens": 4, "temperature": 0, **body}).encode()


def stream_events(data):
    """The JSON of each event of a stream; [DONE] must come last, once."""
    events = [line[6:] for line in data.decode().split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]" and events.count("[DONE]") == 1
    return [json.loads(event) for event in events[:-1]]
