"""The engines, one class each. A method runs one scenario once and returns its figures:

prefill, decode        {"rate": tokens/s}
batch                  {"decode_rate", "total_rate": tokens/s}
serving                {"output_rate": tokens/s, "peak_memory_bytes"}
prefix                 {"cold", "cached": seconds to the first token}
load                   {"ready", "first_token": seconds since the start of the process, "peak_memory_bytes"}
context                {"seconds_per_token": {tokens of context: seconds}}

An engine leaves out what it has no way to do. Each run is a process of its own, except OpenVINO's, whose start takes long.
"""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import time

from . import workload
from .setup import RELEASE, WORK, Failure


def run_json(command, log):
    """Standard output of a command as text; its errors go to a log."""
    with open(WORK / f"{log}.log", "w") as err:
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=err, text=True)
    if done.returncode:
        raise Failure(f"exit code {done.returncode}: {' '.join(map(str, command))}; see {WORK / log}.log")
    return done.stdout


class NanoVllm:
    name = "nano-vLLM"

    def __init__(self, weights, model, threads, sizes, stored=False):
        self.weights, self.model, self.threads, self.sizes = weights, model, threads, sizes
        self.flags = ["--threads", threads]
        if not stored and weights != "bf16":
            self.flags += ["--quantization", weights]

    def bench(self, kind, *flags):
        command = [RELEASE / "nano-vllm", "bench", kind, self.model, "--json", *self.flags, *flags]
        return json.loads(run_json(command, "nano-vllm"))

    def weights_bytes(self):
        report = json.loads(run_json([RELEASE / "nano-vllm", "inspect", self.model, "--json", *self.flags], "nano-vllm"))
        return report["memory"]["weights_bytes"]

    def prefill(self):
        n = self.sizes.prefill
        report = self.bench("latency", "--batch-size", 1, "--input-len", n, "--output-len", 1, "--num-iters", 3)
        return {"rate": n / report["percentiles"]["50"]}

    def decode(self):
        report = self.bench("latency", "--batch-size", 1, "--input-len", 8, "--output-len", self.sizes.decode + 1,
                            "--num-iters", 1, "--num-iters-warmup", 0)
        return {"rate": report["decode_tokens_per_second"]}

    def batch(self):
        count, tokens_in, tokens_out = self.sizes.batch
        report = self.bench("throughput", "--num-prompts", count, "--input-len", tokens_in, "--output-len", tokens_out,
                            "--num-iters-warmup", 0)
        return {"decode_rate": report["decode_tokens_per_second"], "total_rate": report["tokens_per_second"]}

    def serving(self, requests):
        path = WORK / "serving.jsonl"
        workload.write_requests(path, requests)
        report = self.bench("throughput", "--dataset-name", "custom", "--dataset-path", path, "--num-prompts", len(requests),
                            "--max-num-seqs", len(requests), "--kv-cache-memory-bytes", "4GiB", "--max-model-len", 2048)
        return {"output_rate": report["output_tokens_per_second"], "peak_memory_bytes": report["peak_memory_bytes"]}

    def prefix(self):
        flags = ["--batch-size", 1, "--random-prefix-len", self.sizes.prefix, "--input-len", self.sizes.suffix,
                 "--output-len", 1]
        cold = self.bench("latency", *flags, "--num-iters", 1)
        cached = self.bench("latency", *flags, "--num-iters", 3, "--enable-prefix-caching")
        return {"cold": cold["median_ttft_ms"] / 1e3, "cached": cached["median_ttft_ms"] / 1e3}

    def load(self):
        """Memory: of a run whose prompt fills the KV cache, so that every planned byte of it is touched."""
        flags = ["--batch-size", 1, "--output-len", 1, "--num-iters", 1, "--num-iters-warmup", 0, "--max-num-seqs", 1,
                 "--max-model-len", 512]
        start = self.bench("latency", *flags, "--input-len", 1)
        full = self.bench("latency", *flags, "--input-len", 511)
        planned = full["weights_bytes"] + full["kv_cache_bytes"]
        return {"ready": start["load_seconds"], "first_token": start["load_seconds"] + start["mean_ttft_ms"] / 1e3,
                "peak_memory_bytes": start["peak_memory_bytes"],
                "beyond_weights_and_kv_bytes": full["peak_memory_bytes"] - planned}

    def context(self):
        report = json.loads(run_json([RELEASE / "bench" / "bench_context", self.model, *self.sizes.contexts, "--tokens",
                                      self.sizes.context_tokens, *self.flags], "nano-vllm"))
        return {"seconds_per_token": {p["context"]: p["seconds_per_token"] for p in report["points"]}}


class Llama:
    name = "llama.cpp"

    def __init__(self, weights, model, threads, sizes, programs):
        self.weights, self.model, self.threads, self.sizes, self.programs = weights, model, threads, sizes, programs

    def weights_bytes(self):
        return pathlib.Path(self.model).stat().st_size

    def bench(self, *flags):
        command = [self.programs / "llama-bench", "-m", self.model, "-t", self.threads, "-r", 1, "-o", "jsonl", *flags]
        return [json.loads(line) for line in run_json(command, "llama-bench").splitlines()]

    def prefill(self):
        return {"rate": self.bench("-p", self.sizes.prefill, "-n", 0)[0]["avg_ts"]}

    def decode(self):
        return {"rate": self.bench("-p", 0, "-n", self.sizes.decode)[0]["avg_ts"]}

    def batch(self):
        count, tokens_in, tokens_out = self.sizes.batch
        out = run_json([self.programs / "llama-batched-bench", "-m", self.model, "-t", self.threads, "-npp", tokens_in, "-ntg",
                        tokens_out, "-npl", count, "-c", count * (tokens_in + tokens_out), "--output-format", "jsonl"],
                       "llama-batched-bench")
        report = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
        return {"decode_rate": report["speed_tg"], "total_rate": report["speed"]}

    def serving(self, requests):
        per_slot = max(len(ids) + out for ids, out in requests)
        with LlamaServer(self, len(requests), len(requests) * (-(-per_slot // 256) * 256), "--no-cache-prompt") as server:
            server.complete([1, 2, 3], 2)
            begin = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
                tokens = sum(pool.map(lambda request: server.complete(*request), requests))
            seconds = time.monotonic() - begin
            if tokens != sum(out for _, out in requests):
                raise Failure(f"llama-server gave {tokens} tokens")
            return {"output_rate": tokens / seconds, "peak_memory_bytes": server.peak_memory_bytes()}

    def prefix(self):
        prefix, *suffixes = workload.random_prompts(7, [self.sizes.prefix, *[self.sizes.suffix] * 2])
        seconds = []
        with LlamaServer(self, 1, self.sizes.prefix + self.sizes.suffix + 256) as server:
            server.complete([1, 2, 3], 2)
            for suffix in suffixes:
                begin = time.monotonic()
                server.complete(prefix + suffix, 1, cache_prompt=True)
                seconds.append(time.monotonic() - begin)
        return {"cold": seconds[0], "cached": seconds[1]}

    def load(self):
        begin = time.monotonic()
        with LlamaServer(self, 1, 512, "--no-warmup") as server:
            ready = time.monotonic() - begin
            server.complete([1], 1)
            return {"ready": ready, "first_token": time.monotonic() - begin, "peak_memory_bytes": server.peak_memory_bytes()}

    def context(self):
        report = self.bench("-p", 0, "-n", self.sizes.context_tokens, "-d", ",".join(map(str, self.sizes.contexts)))
        return {"seconds_per_token": {r["n_depth"]: 1 / r["avg_ts"] for r in report}}


class LlamaServer:
    """llama-server on a free port, for as long as the with-block runs."""

    def __init__(self, engine, slots, context, *flags):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [engine.programs / "llama-server", "-m", engine.model, "-t", engine.threads, "-np", slots, "-c", context,
                        "--host", "127.0.0.1", "--port", self.port, "--no-webui", *flags]

    def __enter__(self):
        log = open(WORK / "llama-server.log", "w")
        self.process = subprocess.Popen([str(c) for c in self.command], stdout=log, stderr=log)
        while not self.is_ready():
            if self.process.poll() is not None:
                raise Failure(f"llama-server ended with {self.process.returncode}; see {WORK / 'llama-server.log'}")
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def is_ready(self):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def complete(self, ids, tokens, cache_prompt=False):
        """The number of tokens that came."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=7200)
        body = {"prompt": ids, "n_predict": tokens, "ignore_eos": True, "temperature": 0, "cache_prompt": cache_prompt}
        connection.request("POST", "/completion", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != 200:
            raise Failure(f"llama-server: {answer}")
        return answer["tokens_predicted"]

    def peak_memory_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


class OpenVino:
    """A worker process that lives until close(); its first request, not measured, lets it compile."""

    name = "OpenVINO GenAI"

    def __init__(self, weights, model, threads, sizes, python):
        self.weights, self.model, self.threads, self.sizes, self.python = weights, model, threads, sizes, python
        self.worker = None

    def weights_bytes(self):
        return pathlib.Path(self.model).stat().st_size

    def start(self, prefix_caching=False):
        self.close()
        script = pathlib.Path(__file__).with_name("openvino_worker.py")
        command = [self.python, script, self.model, self.threads, 3, int(prefix_caching)]
        self.worker = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                       stderr=open(WORK / "openvino.log", "w"))
        return self.read()

    def close(self):
        if self.worker:
            self.worker.stdin.close()
            self.worker.wait()
            self.worker = None

    def read(self):
        line = self.worker.stdout.readline()
        if not line:
            raise Failure(f"OpenVINO GenAI ended with {self.worker.wait()}; see {WORK / 'openvino.log'}")
        return json.loads(line)

    def ask(self, prompts, outputs):
        if not self.worker:
            self.start()
            self.ask(workload.random_prompts(1, [8]), [2])
        print(json.dumps({"prompts": prompts, "outputs": outputs}), file=self.worker.stdin, flush=True)
        report = self.read()
        if report["tokens"] != sum(outputs):
            raise Failure(f"OpenVINO GenAI gave {report['tokens']} tokens instead of {sum(outputs)}")
        return report

    def prefill(self):
        n = self.sizes.prefill
        return {"rate": n / self.ask(workload.random_prompts(2, [n]), [1])["seconds"]}

    def decode(self):
        prompts, n = workload.random_prompts(3, [8]), self.sizes.decode
        return {"rate": n / (self.ask(prompts, [n + 1])["seconds"] - self.ask(prompts, [1])["seconds"])}

    def batch(self):
        count, tokens_in, tokens_out = self.sizes.batch
        prompts = workload.random_prompts(4, [tokens_in] * count)
        first, whole = (self.ask(prompts, [n] * count)["seconds"] for n in (1, tokens_out))
        return {"decode_rate": count * (tokens_out - 1) / (whole - first),
                "total_rate": count * (tokens_in + tokens_out) / whole}

    def serving(self, requests):
        report = self.ask([ids for ids, _ in requests], [out for _, out in requests])
        return {"output_rate": report["tokens"] / report["seconds"], "peak_memory_bytes": report["peak_memory_bytes"]}

    def prefix(self):
        prefix, *suffixes = workload.random_prompts(7, [self.sizes.prefix, *[self.sizes.suffix] * 2])
        self.start(prefix_caching=True)
        self.ask(workload.random_prompts(1, [8]), [2])
        cold, cached = (self.ask([prefix + suffix], [1])["seconds"] for suffix in suffixes)
        self.close()
        return {"cold": cold, "cached": cached}

    def load(self):
        ready = self.start()["load_seconds"]
        report = self.ask([[1]], [1])
        return {"ready": ready, "first_token": ready + report["seconds"], "peak_memory_bytes": report["peak_memory_bytes"]}


def threads_of_this_process():
    return len(os.sched_getaffinity(0))
