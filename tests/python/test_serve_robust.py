"""serve against clients that are slow, gone, broken or hostile: each costs itself only."""

import http.client
import json
import resource
import socket
import ssl
import subprocess
import time

import pytest

from paths import SANITIZED
from serving import Raw, Server, completion, head, stream_events, wait_until

# One sequence at a time; the first of these keeps the engine busy for minutes unless it is cancelled.
ENDLESS = {"n": 1000, "temperature": 1, "max_tokens": 1500, "ignore_eos": True}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def strict():
    """Small limits, to be reached in a test's time."""
    flags = ["--timeout-header", 1, "--timeout-body", 1, "--timeout-keep-alive", 2, "--max-body-size", 10000]
    with Server(*flags) as running:
        yield running


def is_well(server):
    status, _, answer = server.post("/v1/completions", completion())
    return status == 200 and answer["usage"]["completion_tokens"] == 4


class TestFraming:
    @pytest.mark.parametrize(
        "data",
        [
            b"GET /health HTTP/1.1\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            b"GET /health HTTP/1.1\nHost: localhost\n\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
            b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /health\r\nHost: localhost\r\n\r\n",
            b"GET health HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET /he%00lth HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3, 3\r\n\r\nabc",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -3\r\n\r\nabc",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: +3\r\n\r\nabc",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0x3\r\n\r\nabc",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.0\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n",
            b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n",
        ],
        ids=lambda data: repr(data[:110]),
    )
    def test_what_is_ambiguous_is_refused_and_the_connection_closed(self, server, data):
        with server.connect() as raw:
            # What follows must not be taken for a request.
            raw.send(data + b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            status, headers, body = raw.response()
            assert status in (400, 501, 505) and headers["connection"] == "close"
            assert json.loads(body)["error"]["code"] == status
            assert raw.is_closed()

    def test_pipelined_requests_are_answered_in_order(self, server):
        bodies = [completion(max_tokens=n, ignore_eos=True) for n in (20, 1, 5)]
        with server.connect() as raw:
            raw.send(b"".join(head(body=b) for b in bodies) + head("/version", method="GET"))
            tokens = [json.loads(raw.response()[2])["usage"]["completion_tokens"] for _ in bodies]
            assert tokens == [20, 1, 5] and raw.response()[0] == 200

    def test_a_byte_at_a_time(self, server):
        with server.connect() as raw:
            for byte in b"\r\n" + head(body=completion()):
                raw.send(bytes([byte]))
            assert raw.response()[0] == 200

    def test_a_chunked_body(self, server):
        body = completion()
        chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:8], body[8:])) + b"0\r\nTrailer: x\r\n\r\n"
        with server.connect() as raw:
            raw.send(head(Content_Length=None, Transfer_Encoding="chunked"))
            for i in range(0, len(chunks), 5):
                raw.send(chunks[i : i + 5])
            assert raw.response()[0] == 200
            assert raw.send(head("/health", method="GET")).response()[0] == 200

    def test_expect_100_continue(self, server):
        body = completion()
        with server.connect() as raw:
            raw.send(head(Expect="100-continue", Content_Length=len(body)))
            assert raw.response()[0] == 100
            assert raw.send(body).response()[0] == 200
            assert raw.send(head(Expect="something", Content_Length=len(body))).response()[0] == 417

    def test_head_and_options(self, server):
        with server.connect() as raw:
            status, headers, _ = raw.send(head("/version", method="OPTIONS")).response()
            assert status == 204 and headers["allow"] == "OPTIONS, GET, HEAD"
            raw.send(head("/version", method="HEAD"))
            assert raw.file.readline() == b"HTTP/1.1 200 OK\r\n"
            lines = list(iter(raw.file.readline, b"\r\n"))  # and no body
            assert any(line.lower().startswith(b"content-length: ") and int(line[16:]) > 5 for line in lines)
            assert raw.send(head("/health", method="GET")).response()[0] == 200

    def test_http_1_0(self, server):
        with server.connect() as raw:
            status, headers, _ = raw.send("GET /health HTTP/1.0\r\n\r\n").response()
            assert status == 200 and headers["connection"] == "close" and raw.is_closed()
        with server.connect() as raw:
            raw.send("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert raw.response()[1]["connection"] == "keep-alive"
            # A stream for one that knows no chunks ends with the connection.
            body = completion(stream=True)
            raw.send(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            status, headers, data = raw.response()
            assert status == 200 and "transfer-encoding" not in headers and stream_events(data)

    def test_connection_close(self, server):
        with server.connect() as raw:
            assert raw.send(head(body=completion(), Connection="close")).response()[0] == 200
            assert raw.is_closed()


class TestLimits:
    def test_a_large_header(self, server):
        with server.connect() as raw:
            assert raw.send(head("/health", method="GET", X="y" * 20000)).response()[0] == 200
            assert raw.send(head("/health", method="GET", X="y" * 40000)).response()[0] == 431 and raw.is_closed()
        with server.connect() as raw:
            assert raw.send(b"GET /" + b"a" * 100000).response()[0] == 431

    def test_a_large_body(self, strict):
        with strict.connect() as raw:
            assert raw.send(head(Content_Length=10001)).response()[0] == 413
        with strict.connect() as raw:
            assert raw.send(head(Content_Length=10001, Expect="100-continue")).response()[0] == 413
        with strict.connect() as raw:
            raw.send(head(Content_Length=None, Transfer_Encoding="chunked"))
            raw.send(b"ffff\r\n" + b" " * 0xFFFF + b"\r\n")
            assert raw.response()[0] == 413
        with strict.connect() as raw:  # one that sends all of it before it reads
            raw.send(head(body=b" " * 3_000_000))
            assert raw.response()[0] == 413
        assert is_well(strict)

    def test_slow_headers_and_bodies(self, strict):
        for beginning in (b"POST /v1/compl", head(Content_Length=100) + b'{"pro'):
            with strict.connect() as raw:
                raw.send(beginning)
                began = time.monotonic()
                for _ in range(6):  # a trickle buys no time
                    time.sleep(0.1)
                    raw.send(b"a")
                status, headers, _ = raw.response()
                assert status == 408 and headers["connection"] == "close" and 0.8 < time.monotonic() - began < 20

    def test_idle_connections_are_closed(self, strict):
        with strict.connect() as fresh, strict.connect() as used:
            used.send(head("/health", method="GET")).response()
            began = time.monotonic()
            assert fresh.is_closed() and used.is_closed() and 1.5 < time.monotonic() - began < 20

    def test_json_bombs(self, server):
        before = server.memory()
        for bomb in (b"[" * 5_000_000, b'{"prompt":' + b"[" * 3_000_000, b"[" + b"[]," * 5_000_000 + b"1]", b'{"prompt":[' + b"1," * 10_000_000 + b"1]}",
                     b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}"):
            assert server.post("/v1/completions", bomb)[0] == 400
        assert is_well(server) and (SANITIZED or server.memory() - before < 100 << 20)

    def test_connections_beyond_the_limit_are_closed(self):
        with Server("--max-connections", 3) as server:
            open_ones = [server.connect() for _ in range(3)]
            for raw in open_ones:
                assert raw.send(head("/health", method="GET")).response()[0] == 200
            with server.connect() as fourth:
                assert fourth.is_closed()
            open_ones.pop().close()

            def served():
                try:
                    return server.get("/health")[0] == 200
                except (ConnectionError, http.client.RemoteDisconnected):
                    return False

            wait_until(served)


class TestBrowsers:
    def test_only_names_of_this_machine_are_answered(self, server):
        for host, status in [("localhost", 200), ("127.0.0.1:99", 200), ("[::1]:8000", 200), ("evil.example", 403), ("localhost.evil.example", 403), ("a b", 403)]:
            assert server.get("/health", Host=host)[0] == status

    def test_cors(self, server):
        assert "Access-Control-Allow-Origin" not in server.get("/health", Origin="https://a.example")[1]
        with Server("--allowed-origins", '["https://a.example"]', "--allowed-hosts", "my.host") as listed:
            assert listed.get("/health")[0] == 403
            def headers(origin, host="my.host"):
                return listed.get("/health", Origin=origin, Host=host)[1]
            assert headers("https://a.example")["Access-Control-Allow-Origin"] == "https://a.example"
            assert "Access-Control-Allow-Origin" not in headers("https://b.example")
            with listed.connect() as raw:
                raw.send(head(method="OPTIONS", Host="my.host", Origin="https://a.example", Access_Control_Request_Method="POST",
                              Access_Control_Request_Headers="content-type"))
                status, fields, _ = raw.response()
                assert status == 204 and "POST" in fields["access-control-allow-methods"]
                assert fields["access-control-allow-headers"] == "content-type"
            # Errors of the server itself can be read by the page too.
            assert listed.get("/nothing", Origin="https://a.example", Host="my.host")[1]["Access-Control-Allow-Origin"]


class TestLeaving:
    @pytest.mark.parametrize("stream", [True, False])
    @pytest.mark.parametrize("how", ["close", "reset", "half"])
    def test_a_client_that_leaves_is_cancelled(self, stream, how):
        with Server("--max-num-seqs", 1) as server:
            with server.connect() as raw:
                raw.send(head(body=completion(stream=stream, **ENDLESS)))
                if stream:
                    raw.file.readline()
                else:
                    wait_until(lambda: server.metric("num_requests_running") == 1)
                if how == "reset":
                    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                if how == "half":
                    raw.socket.shutdown(socket.SHUT_WR)
                else:
                    raw.close()
                began = time.monotonic()
                assert is_well(server) and time.monotonic() - began < 20

    def test_one_that_leaves_before_its_turn(self):
        with Server("--max-num-seqs", 1) as server, server.connect() as first:
            first.send(head(body=completion(stream=True, **ENDLESS))).file.readline()
            for _ in range(20):
                server.connect().send(head(body=completion(**ENDLESS))).close()
            first.close()
            began = time.monotonic()
            assert is_well(server) and time.monotonic() - began < 20

    def test_a_slow_reader_is_dropped_and_delays_nobody(self):
        with Server("--max-unsent-bytes", "64KiB", "--max-num-seqs", 8) as server:
            before = server.memory()
            slow = [Raw(server.port, receive_buffer=4096) for _ in range(3)]
            for raw in slow:  # several MB each
                raw.send(head(body=completion(stream=True, logprobs=20, max_tokens=1500, n=2, temperature=1, ignore_eos=True)))
            waits = []
            for _ in range(20):
                began = time.monotonic()
                assert is_well(server)
                waits.append(time.monotonic() - began)
                time.sleep(0.1)
            assert sorted(waits)[15] < 5
            assert SANITIZED or server.memory() - before < 40 << 20
            wait_until(lambda: server.metric("key_requests_running") == 0)
            for raw in slow:
                try:
                    data = raw.file.read()
                except ConnectionResetError:
                    data = b""
                assert b"[DONE]" not in data
                raw.close()


def test_idle_connections_cost_little():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 400), hard))
    try:
        with Server() as server:
            assert is_well(server)
            before = server.memory()
            sockets = []
            for i in range(count):
                connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                if i % 2:  # half of them have been used
                    connection.sendall(head("/health", method="GET"))
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                sockets.append(connection)
            began = time.monotonic()
            assert is_well(server) and time.monotonic() - began < 10
            assert SANITIZED or server.memory() - before < count * 10_000
            for connection in sockets:
                connection.close()
            assert is_well(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    return folder


class TestTls:
    def test_requests_and_streams(self, certificate):
        flags = ["--ssl-certfile", certificate / "cert.pem", "--ssl-keyfile", certificate / "key.pem"]
        with Server(*flags) as server:
            with server.connect() as plain:
                assert plain.send(head("/health", method="GET")).is_closed()
            with server.connect():  # says nothing at all
                context = ssl.create_default_context(cafile=certificate / "cert.pem")
                for _ in range(2):
                    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as bare:
                        with context.wrap_socket(bare, server_hostname="localhost") as tls:
                            tls.sendall(head(body=completion()) + head(body=completion(stream=True), Connection="close"))
                            data = b""
                            while part := tls.recv(65536):
                                data += part
                            assert data.count(b"HTTP/1.1 200 OK") == 2 and b"data: [DONE]" in data

    def test_files_that_are_none(self, cli, certificate):
        result = cli("serve", "--port", 0, "--ssl-certfile", "missing.pem")
        assert result.returncode == 1 and b"missing.pem" in result.stderr
        result = cli("serve", "--port", 0, "--ssl-certfile", certificate / "cert.pem")
        assert result.returncode == 1 and b"cert.pem" in result.stderr
        result = cli("serve", "--port", 0, "--ssl-keyfile", certificate / "key.pem")
        assert result.returncode == 2 and b"--ssl-keyfile" in result.stderr
