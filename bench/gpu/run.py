"""What bench/gpu.sh runs: tests, limits, benchmarks, report."""

import argparse
import datetime
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from gpu import report, roofline  # noqa: E402
from gpu.stages import Stages, run_command, run_json  # noqa: E402
from suite import workload  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
SHAPE = workload.QWEN3
SMALL_TESTS = "*Rows.*:CudaSampling.*:CudaAttention.*"  # short enough for compute-sanitizer


def say(text):
    print(text, file=sys.stderr, flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description="The tests and benchmarks of the CUDA backend; see the head of bench/gpu.sh.")
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "portable", help="(default: build/portable)")
    parser.add_argument("--tests", type=pathlib.Path, help="the test program (default: tests/test_cuda of the build)")
    parser.add_argument("--model", type=pathlib.Path, help="a folder instead of the random checkpoint")
    parser.add_argument("--minutes", type=float, default=8.5, help="of all stages together (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    return parser.parse_args()


def describe_machine():
    cpu = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text())
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        gpu = subprocess.run(query, stdout=subprocess.PIPE, text=True, timeout=20).stdout.strip().splitlines()
    except (OSError, subprocess.TimeoutExpired):
        gpu = []
    name = f"{gpu[0].split(',')[0].strip()}, driver {gpu[0].split(',')[1].strip()}" if gpu else "no NVIDIA GPU"
    return f"{name}; {cpu[1].strip() if cpu else 'unknown processor'}, {len(os.sched_getaffinity(0))} processors"


class Session:
    def __init__(self, args, folder):
        self.args, self.folder = args, folder
        self.program = args.build / "nano-vllm"
        self.model = args.model or folder / "model"
        self.stages = Stages(args.minutes * 60, say)
        self.requests_path = folder / "requests.jsonl"
        sizes = (8, 10, 20) if args.quick else (256, 100, 1024)
        self.lengths = f"{sizes[1]}–{sizes[2]}"
        vocabulary = json.loads((args.model / "config.json").read_text())["vocab_size"] if args.model else SHAPE.vocabulary
        drawn = workload.serving_requests(workload.Sizes(serving=sizes))
        self.requests = [([i % vocabulary for i in ids], out) for ids, out in drawn]
        workload.write_requests(self.requests_path, self.requests)
        self.tokens = 9 if args.quick else 257

    # ---- the stages; each takes its limit in seconds and returns figures

    def make_model(self, limit):
        code, _, err = run_command([sys.executable, ROOT / "bench" / "suite" / "model.py", self.model], limit)
        if code:
            raise RuntimeError(err[-500:])

    def tests(self, limit, *flags, under=()):
        program = self.args.tests or self.args.build / "tests" / "test_cuda"
        self.put_sources_where_the_tests_look()
        code, out, err = run_command([*under, program, "--gtest_brief=1", *flags], limit)
        passed, failed = re.search(r"\[  PASSED  \] (\d+)", out), re.findall(r"\[  FAILED  \] (\S+)", out)
        if code:
            raise RuntimeError(f"exit code {code}; {', '.join(dict.fromkeys(failed)) or (out + err)[-600:]}")
        if not passed or int(passed[1]) == 0:
            raise RuntimeError("no test was run")
        return {"summary": f"{passed[1]} tests passed"}

    def put_sources_where_the_tests_look(self):
        """The test program names files by the folder it was built in."""
        cache = self.args.build / "CMakeCache.txt"
        home = re.search(r"CMAKE_HOME_DIRECTORY:INTERNAL=(.+)", cache.read_text())[1] if cache.exists() else str(ROOT)
        if not pathlib.Path(home).exists():
            pathlib.Path(home).parent.mkdir(parents=True, exist_ok=True)
            pathlib.Path(home).symlink_to(ROOT)

    def sanitizer(self, limit):
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if not pathlib.Path(tool).exists():
            return {"summary": "compute-sanitizer is not there: not run"}
        return self.tests(limit, f"--gtest_filter={SMALL_TESTS}", under=[tool, "--error-exitcode", "9"])

    def limits(self, limit):
        return run_json([sys.executable, HERE / "limits.py", *(["--quick"] if self.args.quick else [])], limit)

    def bench(self, kind, limit, *flags, device="cuda"):
        return run_json([self.program, "bench", kind, self.model, "--json", "--device", device, *flags], limit)

    def throughput(self, limit, limits):
        result = self.bench("throughput", limit, "--dataset-name", "custom", "--dataset-path", self.requests_path, "--num-prompts",
                            len(self.requests), "--max-num-seqs", len(self.requests), "--temperature", 0.6)
        figures = {"requests": len(self.requests), "lengths": self.lengths, "seconds": result["elapsed_time"],
                   "output_tokens_per_second": result["output_tokens_per_second"]}
        if limits and not self.args.model:
            lengths = [(len(ids), out) for ids, out in self.requests]
            figures["roofline_seconds"] = roofline.workload_seconds(SHAPE, lengths, limits["bf16_flops"],
                                                                    limits["bytes_per_second"])
        return figures

    def decode(self, limit, *flags):
        result = self.bench("latency", limit, "--batch-size", 1, "--input-len", 8, "--output-len", self.tokens, "--num-iters", 3,
                            "--temperature", 0, *flags)
        rate = result["decode_tokens_per_second"]
        read = roofline.decode_bytes(SHAPE, [(8, self.tokens)]) / (self.tokens - 1)
        return {"tokens_per_second": rate, "bytes_per_second": rate * read}

    def start(self, limit):
        flags = ["--batch-size", 1, "--input-len", 8, "--output-len", 1, "--num-iters", 1, "--num-iters-warmup", 0]
        return {"seconds": self.bench("latency", limit / 2, *flags)["load_seconds"],
                "eager_seconds": self.bench("latency", limit / 2, *flags, "--enforce-eager")["load_seconds"]}

    def same_tokens(self, limit):
        """With graphs and overlapping steps, without graphs, without overlap: the same answers."""
        answers = {}
        bodies = [{"prompt": ids[:64], "max_tokens": 8 if self.args.quick else 48, "temperature": 0, "ignore_eos": True,
                   "return_token_ids": True} for ids, _ in self.requests[:16]]
        source = self.folder / "batch.jsonl"
        source.write_text("".join(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n"
                                  for i, body in enumerate(bodies)))
        for name, flags in (("graphs, overlap", []), ("eager", ["--enforce-eager"]), ("no overlap", ["--no-async-scheduling"])):
            target = self.folder / "answers.jsonl"
            target.unlink(missing_ok=True)
            code, _, err = run_command([self.program, "run-batch", "-i", source, "-o", target, "--model", self.model, "--device",
                                        "cuda", *flags], limit / 3)
            if code:
                raise RuntimeError(f"{name}: {err[-500:]}")
            lines = [json.loads(line) for line in target.read_text().splitlines()]
            answers[name] = {line["custom_id"]: line["response"]["body"]["choices"][0]["token_ids"] for line in lines}
        for name, answer in answers.items():
            if answer != answers["eager"]:
                raise RuntimeError(f"the tokens with '{name}' are not those of 'eager'")
        return {"summary": f"{len(bodies)} answers, the same with and without graphs and overlap"}

    def transformers(self, limit):
        return run_json([sys.executable, HERE / "transformers_batch.py", self.model, self.requests_path], limit)

    def cpu(self, limit):
        count = len(os.sched_getaffinity(0))
        threads = sorted({1, *(n for n in (2, 4, 8, 16, 32) if n < count), count})
        prefill, decode = {}, {}
        end = time.monotonic() + limit
        length = 16 if self.args.quick else 512

        def bench(n, tokens_in, tokens_out):
            return self.bench("latency", end - time.monotonic(), "--threads", n, "--batch-size", 1, "--num-iters", 1, "--input-len",
                              tokens_in, "--output-len", tokens_out, device="cpu")

        for n in threads:
            prefill[str(n)] = length / bench(n, length, 1)["avg_latency"]
            decode[str(n)] = bench(n, 8, min(self.tokens, 33))["decode_tokens_per_second"]
        return {"prefill": prefill, "decode": decode}

    def run(self):
        s = self.stages
        if not self.args.model:
            s.run("model", 60, self.make_model)
        s.run("tests", 150, self.tests)
        limits = s.run("limits", 60, self.limits)
        s.run("start", 40, self.start)
        s.run("same tokens", 60, self.same_tokens)
        s.run("throughput", 90, lambda limit: self.throughput(limit, limits))
        s.run("decode", 40, self.decode)
        s.run("decode eager", 40, lambda limit: self.decode(limit, "--enforce-eager"))
        s.run("decode int8", 40, lambda limit: self.decode(limit, "--quantization", "int8"))
        s.run("decode fp8", 40, lambda limit: self.decode(limit, "--quantization", "fp8"))
        s.run("transformers", 120, self.transformers)
        s.run("cpu", 60, self.cpu)
        s.run("compute-sanitizer", 90, self.sanitizer)


def main():
    args = parse_arguments()
    folder = pathlib.Path(os.environ.get("OUT") or ROOT / "bench" / "results")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(args, pathlib.Path(scratch))
        session.run()
    measured = {"date": datetime.date.today().isoformat(), "machine": describe_machine(), "quick": args.quick,
                "stages": session.stages.results}
    (folder / "gpu.json").write_text(json.dumps(measured, indent=1) + "\n")
    (folder / "gpu.md").write_text(report.page(measured))
    failed = [name for name, stage in session.stages.results.items() if not stage["ok"]]
    say(f"{folder / 'gpu.md'}: {len(session.stages.results)} stages, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
