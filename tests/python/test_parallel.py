"""Ranks: the same bits for every way of starting them, whatever shares the batch; failures that end all of them and name one.

What the ranks compute is held against transformers in tests/model/golden_test.cc."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest

import mpi
from batch_driver import FLOAT32, run_batch
from paths import CHAT, SANITIZED, TINY
from serving import Server, head, wait_until
from test_invariance import answer, requests

NEEDS_MPI = pytest.mark.skipif(not shutil.which("mpirun") or SANITIZED, reason="there is no mpirun")
TOKENS = {"temperature": 0, "max_tokens": 20, "ignore_eos": True, "return_token_ids": True, "logprobs": 2}


def batch_file(path, bodies):
    lines = [{"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body} for i, body in enumerate(bodies)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def choices(path):
    lines = map(json.loads, path.read_text().splitlines())
    return [answer(line["response"]["body"]) for line in sorted(lines, key=lambda line: int(line["custom_id"]))]


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("model", ["llama-gqa", "qwen2-window"])
def test_a_number_of_ranks_has_its_bits(model, ranks):
    """Alone or together, in one block size or another, with as many threads as ranks or more."""
    flags = ["--tensor-parallel-size", ranks]
    bodies = requests(model)
    together = [answer(r) for r in run_batch(TINY / model, bodies, *flags, "--threads", ranks)]
    again = [answer(r) for r in run_batch(TINY / model, bodies[::-1], *flags, "--threads", 2 * ranks, "--block-size", 8,
                                          "--max-num-batched-tokens", 33)][::-1]
    assert together == again
    for i in (1, 3, 7):
        assert answer(run_batch(TINY / model, [bodies[i]], *flags)[0]) == together[i]


@NEEDS_MPI
class TestMpirun:
    @pytest.mark.parametrize("ranks", [2, 3])
    def test_processes_give_the_bits_of_threads(self, tmp_path, ranks):
        bodies = requests("qwen3")
        threads = [answer(r) for r in run_batch(TINY / "qwen3", bodies, *FLOAT32, "--tensor-parallel-size", ranks)]
        done = mpi.run(ranks, "run-batch", "-i", batch_file(tmp_path / "in", bodies), "-o", tmp_path / "out", "--model",
                       TINY / "qwen3", *FLOAT32)
        assert done.returncode == 0, done.stderr
        assert choices(tmp_path / "out") == threads

    def test_two_hosts(self, tmp_path):
        bodies = requests("llama-chat")
        words = ["run-batch", "-i", batch_file(tmp_path / "in", bodies), "-o", tmp_path / "out", "--model", CHAT]
        try:
            with mpi.TwoHosts(tmp_path) as hosts:
                done = hosts.run(*words)
                gone = hosts.run(["generate", CHAT, "-p", "x"], ["generate", tmp_path / "gone", "-p", "x"])
        except OSError as error:
            pytest.skip(str(error))
        assert done.returncode == 0, done.stderr
        threads = [answer(r) for r in run_batch(CHAT, bodies, "--tensor-parallel-size", 2)]
        assert choices(tmp_path / "out") == threads
        assert gone.returncode != 0 and b"rank 1 on host-b: " in gone.stderr, gone.stderr

    def test_two_engines_at_once(self, tmp_path):
        bodies = [{"prompt": [5] * 9, **TOKENS}]
        expected = [answer(r) for r in run_batch(CHAT, bodies, "--tensor-parallel-size", 2)]
        source = batch_file(tmp_path / "in", bodies)

        def engine(i):
            done[i] = mpi.run(2, "run-batch", "-i", source, "-o", tmp_path / str(i), "--model", CHAT)

        done = [None, None]
        both = [threading.Thread(target=engine, args=[i]) for i in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        for i in range(2):
            assert done[i].returncode == 0, done[i].stderr
            assert choices(tmp_path / str(i)) == expected

    def test_the_number_of_ranks_is_mpirun_s(self):
        done = mpi.run(2, "generate", CHAT, "-p", "x", "--tensor-parallel-size", 3)
        assert done.returncode == 2
        assert b"--tensor-parallel-size: is 3, but mpirun has started 2 ranks" in done.stderr

    def test_without_the_plugin(self, monkeypatch):
        monkeypatch.setenv("NANO_VLLM_MPI_PLUGIN", "/gone.so")
        done = mpi.run(2, "generate", CHAT, "-p", "x")
        assert done.returncode == 1
        assert b"mpirun: has started this process, but the plugin of NANO_VLLM_MPI_PLUGIN cannot be loaded" in done.stderr


@NEEDS_MPI
class TestFailures:
    """Each within ten seconds, with an exit code and a line that names the rank."""

    def fails(self, other_model, message):
        start = time.monotonic()
        done = mpi.run(2, ["generate", CHAT, "-p", "x"], ["generate", other_model, "-p", "x"])
        assert time.monotonic() - start < 10
        assert done.returncode != 0
        assert message in done.stderr.decode(), done.stderr
        assert done.stdout == b""

    def test_a_file_that_is_missing(self, tmp_path):
        self.fails(tmp_path / "gone", "rank 1 on ")

    def test_another_file(self, tmp_path):
        other = tmp_path / "other"
        shutil.copytree(CHAT, other)
        weights = other / "model.safetensors"
        data = bytearray(weights.read_bytes())
        header = 8 + int.from_bytes(data[:8], "little")
        data[header:] = bytes(np.frombuffer(data[header:], np.uint8) ^ 1)
        weights.write_bytes(data)
        self.fails(other, "does not agree with rank 0 on ")

    @pytest.mark.parametrize("busy", [True, False])
    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
    def test_a_rank_that_dies_or_stops(self, how, busy):
        prefix = [*mpi.command(2)[:-3], "-n", "2"]
        with Server(prefix=prefix) as server:
            worker = mpi.process_of_rank(1, among=server.process.pid)
            request = {"prompt": [5] * 9, **TOKENS}
            assert server.answer("/v1/completions", request)
            if busy:
                client = server.connect()
                client.send(head(body=json.dumps({**request, "max_tokens": 2000, "n": 1000, "temperature": 1}).encode()))
                wait_until(lambda: server.metric("num_requests_running") > 0)
            os.kill(worker, how)
            start = time.monotonic()
            code = server.process.wait(timeout=30)
            assert time.monotonic() - start < 10 and code != 0
            if how == signal.SIGSTOP:
                assert "has not been heard of for 5 seconds" in server.log()
            assert "rank 1 " in server.log(), server.log()
