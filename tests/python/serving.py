"""A running `nano-vllm serve` for tests, and plain requests to it."""
import contextlib
import http.client
import json
import pathlib
import re
import signal
import subprocess
import tempfile
import threading


class Server:
    """Started by running(); log() is what it wrote to stderr so far."""

    def __init__(self, process, log):
        self.process, self._log, self.port = process, log, None

    def log(self):
        return pathlib.Path(self._log).read_text(errors="replace")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
            all_headers = {**({"Content-Type": "application/json"} if data is not None else {}), **(headers or {})}
            connection.request(method, path, data, all_headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def post(self, path, body, **more):
        """The JSON of an answer that is no stream; fails unless it is a 200."""
        status, _, data = self.request("POST", path, body, **more)
        assert status == 200, (status, data)
        return json.loads(data)

    def metric(self, name):
        """The sum of a metric's samples."""
        status, _, data = self.request("GET", "/metrics")
        assert status == 200
        values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", data.decode(), re.M)
        assert values, f"no metric {name}"
        return sum(map(float, values))

    def memory(self):
        """Resident bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def stop(self, timeout=60):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


@contextlib.contextmanager
def running(binary, model, *flags, env=None, start_timeout=120, prefix=()):
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen([*prefix, str(binary), "serve", str(model), "--port", "0", *map(str, flags)],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env=env)
        server = Server(process, log.name)
        try:
            listening = threading.Event()
            for _ in range(start_timeout * 20):
                found = re.search(r"listening on \w+://\S+:(\d+)", server.log())
                if found or process.poll() is not None:
                    break
                listening.wait(0.05)
            assert found, f"the server did not start: {server.log()}"
            server.port = int(found[1])
            yield server
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
