"""Many users on one server: API keys, limits, caches of their own, fair share, metrics, the access log."""

import concurrent.futures
import hashlib
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paths import BINARY
from serving import Server, completion, head, wait_until

LONG = "one two three four five six seven eight nine ten " * 8


def digest(key):
    return hashlib.sha256(key.encode()).hexdigest()


class KeyServer(Server):
    """A server with these keys and an access log."""

    def __init__(self, tmp_path, keys=None, flags=(), **more):
        self.access_log = tmp_path / "access.jsonl"
        flags = ["--access-log", self.access_log, *flags]
        if keys is not None:
            path = tmp_path / "keys.json"
            path.write_text(json.dumps({"keys": keys}))
            flags += ["--api-key-file", path]
        super().__init__(*flags, **more)

    def ask(self, path, body=None, key=None):
        """(status, headers, text)"""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        status, fields, data = self.request("POST" if body is not None else "GET", path, body, headers)
        return status, fields, data.decode()

    def complete(self, key=None, prompt="one two three", max_tokens=4, **fields):
        status, headers, text = self.ask(
            "/v1/completions", {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
                                **fields}, key)
        return status, headers, json.loads(text)

    def cached(self, key, **fields):
        status, _, answer = self.complete(key, LONG, **fields)
        assert status == 200
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

    def metrics(self, key=None):
        """{(name, labels as a frozenset): value}"""
        status, headers, text = self.ask("/metrics", key=key)
        assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return {(sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text) for sample in family.samples}

    def lines(self, count):
        """A line is written when the client has its answer already."""
        wait_until(lambda: len(self.access_log.read_text().splitlines()) >= count)
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]


ALICE = {"name": "alice", "key_sha256": digest("key of alice"), "admin": True}
BOB = {"name": "bob", "key_sha256": digest("key of bob")}


def test_without_a_key_only_health_and_the_description_are_open(tmp_path):
    with KeyServer(tmp_path, [ALICE, BOB]) as server:
        for key in (None, "wrong", digest("key of alice"), "key of alicf"):
            status, headers, answer = server.complete(key)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
            assert answer["error"]["code"] == "invalid_api_key"
            assert answer["error"].keys() == {"message", "type", "param", "code"}
        for path in ("/v1/models", "/version", "/metrics"):
            assert server.ask(path)[0] == 401
        assert server.ask("/tokenize", {"prompt": "a"})[0] == 401
        for path in ("/health", "/openapi.json"):
            assert server.ask(path)[0] == 200
        assert server.complete("key of alice")[0] == 200
        assert server.complete("key of bob")[0] == 200
        assert server.ask("/v1/models", key="key of bob")[0] == 200
        assert server.ask("/metrics", key="key of bob")[0] == 403
        assert server.ask("/metrics", key="key of alice")[0] == 200


def test_keys_of_the_command_line_and_the_environment(tmp_path):
    with KeyServer(tmp_path, flags=["--api-key", "first", "--api-key", "second"]) as server:
        assert [server.complete(key)[0] for key in ("first", "second", "third", None)] == [200, 200, 401, 401]
        assert server.ask("/metrics", key="second")[0] == 200
    with KeyServer(tmp_path, env={**os.environ, "NANO_VLLM_API_KEY": "from the environment"}) as server:
        assert [server.complete(key)[0] for key in ("from the environment", None)] == [200, 401]


@pytest.mark.parametrize("flags, keys, message", [
    (["--host", "0.0.0.0"], None, "--api-key-file"),
    ([], [{"name": "x", "key_sha256": "12"}], "keys[0].key_sha256: must be the 64 hex digits"),
    ([], [BOB, {**BOB, "name": "carol"}], "keys[1]: 'carol' has the same key as 'bob'"),
    ([], [{**BOB, "wight": 2}], "keys[0].wight: is no field of a key"),
    (["--api-key-file", "/nonexistent.json"], None, "cannot read '/nonexistent.json'"),
    (["--access-log", "/nonexistent/log"], None, "--access-log: cannot open"),
])
def test_mistakes_are_named_before_the_model_is_loaded(tmp_path, flags, keys, message):
    if keys is not None:
        (tmp_path / "keys.json").write_text(json.dumps({"keys": keys}))
        flags = ["--api-key-file", str(tmp_path / "keys.json")]
    result = subprocess.run([str(BINARY), "serve", "/nonexistent-model", "--port", "0", *flags], text=True,
                            capture_output=True, timeout=60)
    assert result.returncode == 2
    assert message in result.stderr
    assert "nonexistent-model" not in result.stderr


def test_the_key_file_is_read_again_at_sighup(tmp_path):
    carol = {"name": "carol", "key_sha256": digest("carol")}
    with KeyServer(tmp_path, [ALICE, BOB]) as server:
        def renew(text, said):
            before = server.log().count(said)
            (tmp_path / "keys.json").write_text(text)
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: server.log().count(said) > before)

        def statuses():
            return [server.complete(key)[0] for key in ("key of alice", "key of bob", "key of bob, new", "carol")]

        assert statuses() == [200, 200, 401, 401]
        with server.connect() as raw:  # bob's, under way while bob is removed
            raw.send(head(body=completion(max_tokens=1500, ignore_eos=True, stream=True), Authorization="Bearer key of bob")).file.readline()
            renew(json.dumps({"keys": [carol, ALICE]}), "2 API keys read")
            assert statuses() == [200, 401, 401, 200]
            while b"[DONE]" not in raw.file.readline():
                pass
        renew("{", "the keys stay as they are")
        assert statuses() == [200, 401, 401, 200]
        renew(json.dumps({"keys": [ALICE, {**BOB, "key_sha256": digest("key of bob, new"), "requests_per_minute": 1}]}), "2 API keys read")
        assert statuses() == [200, 401, 200, 401]
        assert server.complete("key of bob, new")[0] == 429
        counted = {dict(labels)["key"]: value for (name, labels), value in server.metrics("key of alice").items()
                   if name == "nano_vllm:key_requests_total"}
        assert counted == {"alice": 4, "bob": 3, "carol": 2}  # what is counted goes on


def test_limits_are_answered_with_429_and_when_to_come_back(tmp_path):
    keys = [ALICE, {**BOB, "requests_per_minute": 2},
            {"name": "carol", "key_sha256": digest("carol"), "tokens_per_minute": 20}]
    with KeyServer(tmp_path, keys) as server:
        assert [server.complete("key of bob")[0] for _ in range(2)] == [200, 200]
        status, headers, answer = server.complete("key of bob")
        assert status == 429 and 25 <= int(headers["Retry-After"]) <= 30
        assert answer["error"]["code"] == "rate_limit_exceeded" and "requests_per_minute" in answer["error"]["message"]
        assert server.complete("carol", LONG)[0] == 200  # counted when it has been computed
        status, headers, answer = server.complete("carol")
        assert status == 429 and int(headers["Retry-After"]) > 60
        assert "tokens_per_minute" in answer["error"]["message"]
        assert server.ask("/v1/models", key="carol")[0] == 200  # costs nothing
        assert server.complete("key of alice")[0] == 200
        refused = {labels: value for (name, labels), value in server.metrics("key of alice").items()
                   if name == "nano_vllm:key_requests_refused_total"}
        assert refused == {frozenset({("key", "alice")}): 0, frozenset({("key", "bob")}): 1,
                           frozenset({("key", "carol")}): 1}


def test_a_full_queue_is_answered_with_429(tmp_path):
    keys = [ALICE, {**BOB, "max_concurrent_requests": 1, "max_queued_requests": 1}]
    with KeyServer(tmp_path, keys) as server, concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(server.complete, "key of bob", "a", 1500) for _ in range(6)]
        answers = [answer.result() for answer in answers]
        assert {status for status, _, _ in answers} == {200, 429}
        for status, headers, answer in answers:
            if status == 429:
                assert answer["error"]["code"] == "queue_full" and int(headers["Retry-After"]) >= 1
        assert server.complete("key of bob")[0] == 200


def test_nobody_can_tell_what_others_have_asked(tmp_path):
    shared = [{"name": name, "key_sha256": digest(name), "shared_cache": True} for name in ("carol", "dave")]
    with KeyServer(tmp_path, [ALICE, BOB, *shared]) as server:
        assert server.cached("key of alice") == 0
        assert server.cached("key of alice") > 0
        assert server.cached("key of bob") == 0
        assert server.cached("key of bob", cache_salt="key alice\n") == 0
        assert server.cached("carol") == 0
        assert server.cached("carol", cache_salt="key alice\n") == 0
        assert server.cached("dave") > 0  # on purpose
        assert server.cached("dave", cache_salt="mine") == 0


def test_metrics_are_prometheus_text_with_vllms_names(tmp_path):
    with KeyServer(tmp_path, name='a "quoted\\name') as server:
        assert server.complete(prompt=LONG, max_tokens=5)[0] == 200
        assert server.complete(prompt=LONG, max_tokens=5, n=2, temperature=1)[0] == 200
        assert server.complete(prompt="x" * 100_000)[0] == 400
        metrics = server.metrics()
        model = ("model_name", 'a "quoted\\name')

        def value(name, *labels):
            return metrics["nano_vllm:" + name, frozenset({model, *labels})]

        assert value("generation_tokens_total") == 15
        assert value("prompt_tokens_total") == value("prefix_cache_queries_total") > 100
        assert 0 < value("prefix_cache_hits_total") < value("prompt_tokens_total")
        assert value("request_success_total", ("finished_reason", "length")) == 3
        assert value("num_requests_running") == value("num_requests_waiting") == 0
        assert value("kv_cache_usage_perc") == 0
        for name, count in {"time_to_first_token_seconds": 2, "e2e_request_latency_seconds": 2,
                            "inter_token_latency_seconds": 12, "request_queue_time_seconds": 2,
                            "request_prefill_time_seconds": 2, "request_time_per_output_token_seconds": 2,
                            "request_prompt_tokens": 2}.items():
            assert value(name + "_count") == count, name
            buckets = [(float(dict(labels)["le"]), v) for (full, labels), v in metrics.items()
                       if full == f"nano_vllm:{name}_bucket"]
            assert [v for _, v in sorted(buckets)] == sorted(v for _, v in buckets)
            assert max(buckets) == (float("inf"), count)
        assert value("iteration_tokens_total_count") > 5
        assert metrics["process_resident_memory_bytes", frozenset()] > 1e6
        assert metrics["nano_vllm:http_responses_total", frozenset({("status", "400")})] == 1


def test_the_access_log_says_who_what_and_how_much_and_nothing_else(tmp_path):
    with KeyServer(tmp_path, [ALICE, BOB]) as server:
        server.complete("key of bob", "a secret prompt", 5)
        server.complete("not a key")
        server.ask("/nothing%0A%22here%1b", key="key of alice")
        server.ask("/v1/completions", {"prompt": "a secret prompt", "stream": True, "max_tokens": 3}, "key of bob")
        lines = server.lines(4)
    assert [(line["key"], line["status"]) for line in lines] == [("bob", 200), (None, 401), ("alice", 404), ("bob", 200)]
    first = lines[0]
    assert first["method"] == "POST" and first["path"] == "/v1/completions" and first["remote"] == "127.0.0.1"
    assert first["output_tokens"] == 5 and first["prompt_tokens"] > 0 and first["finish_reasons"] == ["length"]
    assert 0 <= first["queue_seconds"] <= first["ttft_seconds"] <= first["seconds"]
    assert lines[2]["path"] == '/nothing\n"here\x1b'  # escaped, on one line
    raw = server.access_log.read_text()
    assert "secret" not in raw and "key of" not in raw and "\x1b" not in raw
    assert oct(server.access_log.stat().st_mode & 0o777) == "0o640"


def test_what_is_no_request_is_logged_and_counted_too(tmp_path):
    with KeyServer(tmp_path) as server:
        for data, status in ((b"GET /health HTTP/1.1\r\n\r\n", 400), (head(Content_Length=10**9), 413),
                             (head("/health", method="GET", X="y" * 40000), 431)):
            with server.connect() as raw:
                assert raw.send(data).response()[0] == status
        lines = server.lines(3)
        assert [(line["status"], line["path"], line["remote"]) for line in lines] == [
            (400, "", "127.0.0.1"), (413, "/v1/completions", "127.0.0.1"), (431, "", "127.0.0.1")]
        assert server.metrics()["nano_vllm:http_responses_total", frozenset({("status", "413")})] == 1


def test_a_flood_of_one_key_does_not_delay_another(tmp_path):
    """Order instead of times: of 200 long requests of one key hardly any is finished before a short one of another
    key that comes after them all."""
    with KeyServer(tmp_path, [ALICE, BOB], ["--max-num-seqs", "4", "--max-num-batched-tokens", "64"]) as server:
        finished, entered = [], threading.Semaphore(0)

        def flood(i):
            entered.release()
            assert server.complete("key of alice", LONG + str(i), 200)[0] == 200
            finished.append("alice")

        with concurrent.futures.ThreadPoolExecutor(210) as pool:
            jobs = [pool.submit(flood, i) for i in range(200)]
            for _ in jobs:
                entered.acquire()
            while not server.metrics("key of alice")["nano_vllm:key_requests_waiting", frozenset({("key", "alice")})]:
                time.sleep(0.01)
            ahead = []
            for _ in range(5):
                before = len(finished)
                assert server.complete("key of bob", "short", 2)[0] == 200
                ahead.append(len(finished) - before)
            for job in jobs:
                job.result()
        # 200 requests in 4 slots: one that queued behind them would see 196 of them finish.
        assert sorted(ahead)[2] <= 8, ahead
        assert max(ahead) <= 40, ahead


def test_weights_are_shares(tmp_path):
    """Two keys ask for more than there is; what each has when the first is done follows the weights."""
    keys = [{**ALICE, "weight": 3}, BOB]
    with KeyServer(tmp_path, keys, ["--max-num-seqs", "8"]) as server, \
            concurrent.futures.ThreadPoolExecutor(80) as pool:
        done = {"alice": 0, "bob": 0}
        snapshot = []

        def ask(name):
            assert server.complete(f"key of {name}", "a b c", 1200)[0] == 200
            done[name] += 1
            if done["alice"] == 30 and not snapshot:
                snapshot.append(done["bob"])

        jobs = [pool.submit(ask, name) for _ in range(40) for name in ("alice", "bob")]
        for job in jobs:
            job.result()
        assert 5 <= snapshot[0] <= 16, snapshot  # 10 would be exact


def test_who_leaves_the_queue_leaves_nothing_behind(tmp_path):
    with KeyServer(tmp_path, [ALICE, BOB], ["--max-num-seqs", "1"]) as server:
        def load(what):
            return server.metrics("key of alice")[f"nano_vllm:key_requests_{what}", frozenset({("key", "bob")})]

        body = completion(max_tokens=1000, n=100, temperature=1, ignore_eos=True, stream=True)
        clients = [server.connect() for _ in range(30)]
        for client in clients:
            client.send(head(body=body, Authorization="Bearer key of bob"))
        wait_until(lambda: load("waiting") + load("running") == 30)
        for client in clients:
            client.close()
        wait_until(lambda: load("waiting") + load("running") == 0)
        assert server.complete("key of bob")[0] == 200
