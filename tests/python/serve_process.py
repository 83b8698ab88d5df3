"""A running `nano-vllm serve` for the tests, and plain sockets to speak to it in ways that no client would."""

import json
import re
import signal
import socket
import subprocess
import threading
import urllib.request

from conftest import BINARY, TINY

CHAT = TINY / "llama-chat"


class Server:
    """with Server("--max-num-seqs", 4) as server: server.url, server.port, server.process"""

    def __init__(self, *flags, model=CHAT, name="tiny", scheme="http"):
        words = [str(BINARY), "serve", str(model), "--port", "0", "--served-model-name", name, *map(str, flags)]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, errors="replace")
        self.log = []
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(rf"listening on ({scheme}://\S+:(\d+))", line)
            if found:
                self.url, self.port = found[1], int(found[2])
                break
        else:
            raise AssertionError("".join(self.log))
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self):
        self.log.extend(self.process.stderr)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            assert self.stop() == 0, "".join(self.log)

    def stop(self, timeout=60):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def connect(self):
        return Raw(self.port)

    def post(self, path, body, **headers):
        """(status, headers, parsed body)"""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json", **headers})
        return self._open(request)

    def get(self, path, **headers):
        return self._open(urllib.request.Request(self.url + path, headers=headers))

    @staticmethod
    def _open(request):
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                text = response.read()
                return response.status, response.headers, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            text = error.read()
            return error.code, error.headers, json.loads(text) if text else None

    def memory_bytes(self):
        status = open(f"/proc/{self.process.pid}/status").read()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


class Raw:
    """A socket: bytes out, responses in."""

    def __init__(self, port, timeout=30, receive_buffer=None):
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
