"""bench/gpu.sh where there is no GPU: its arithmetic, stages that fail without each other, a report of what there is."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from paths import BINARY, ROOT, TINY

sys.path.insert(0, str(ROOT / "bench"))
from gpu import report, roofline, run, stages  # noqa: E402
from suite import workload  # noqa: E402

SHAPE = workload.Shape(layers=2, hidden=8, inner=16, heads=4, kv_heads=2, head_dim=4, vocabulary=32)
PARAMETERS = 2 * (8 * 16 + 2 * 8 * 8 + 16 * 8 + 3 * 8 * 16) + 8 * 32


def test_bytes_of_decoding_by_counting():
    requests = [(3, 5), (7, 1), (2, 9)]
    counted = 0
    for step in range(1, 9):  # gives every request that still runs its token number step + 1
        counted += 2 * PARAMETERS
        for tokens_in, out in requests:
            if step < out:
                counted += (tokens_in + step) * 2 * SHAPE.layers * SHAPE.kv_heads * SHAPE.head_dim * 2
    assert roofline.decode_bytes(SHAPE, requests) == counted


def test_operations_of_prompts_by_counting():
    operations = 0
    for n in (3, 7):
        operations += 2 * n * (PARAMETERS - 8 * 32) + 2 * 8 * 32
        operations += sum(2 * 2 * SHAPE.layers * SHAPE.heads * SHAPE.head_dim * (i + 1) for i in range(n))
    assert roofline.prefill_seconds(SHAPE, [3, 7], flops=10.0) == pytest.approx(operations / 10)


def test_a_stage_that_fails_stops_no_other():
    def broken(_):
        raise RuntimeError("no device")

    s = stages.Stages(2, say=lambda _: None)
    assert s.run("first", 1, broken) is None
    assert s.run("second", 1, lambda _: {"x": 1}) == {"x": 1}
    time.sleep(max(0, s.end - time.monotonic()))
    assert s.run("late", 1, lambda _: {"x": 1}) is None
    assert [s.results[name]["ok"] for name in ("first", "second", "late")] == [False, True, False]
    assert s.results["first"]["why"] == "RuntimeError: no device" and s.results["late"]["why"] == "no time was left"


def test_a_command_is_killed_in_time():
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        stages.run_command(["sh", "-c", "sleep 60 & wait"], 0.3)
    assert time.monotonic() - start < 10


def test_the_report_says_what_share_of_the_limit_it_was():
    figures = {
        "limits": {"bf16_flops": 7e14, "bytes_per_second": 4e12},
        "throughput": {"requests": 256, "lengths": "100–1024", "seconds": 10.0, "output_tokens_per_second": 12345.6,
                       "roofline_seconds": 7.0},
        "decode": {"tokens_per_second": 1000.0, "bytes_per_second": 3e12},
    }
    done = {name: {"ok": True, "why": "", "seconds": 1.0, "figures": f} for name, f in figures.items()}
    page = report.page({"date": "d", "machine": "m", "stages": done})
    assert "| 12,346 tokens/s out | 70 % of the roofline |" in page
    assert "| 1,000 tokens/s | 75 % of the copy bandwidth |" in page


def test_the_sanitizer_has_tests_to_run():
    listed = subprocess.run([BINARY.parent / "tests" / "test_cuda_emulated", "--gtest_list_tests",
                             f"--gtest_filter={run.SMALL_TESTS}"], stdout=subprocess.PIPE, text=True, check=True).stdout
    for suite in ("Rows.", "CudaSampling.", "CudaAttention."):
        assert suite in listed


def test_tests_that_are_none_are_a_failure(tmp_path):
    session = run.Session(argparse.Namespace(model=TINY / "qwen3", build=BINARY.parent, tests="/bin/true", quick=True, minutes=1), tmp_path)
    with pytest.raises(RuntimeError, match="no test was run"):
        session.tests(10)


def test_without_a_gpu_it_reports_that(tmp_path):
    """The program is real; the device, the tests and torch are not there."""
    environment = {**os.environ, "OUT": str(tmp_path), "NANO_VLLM_CUDA_PLUGIN": str(tmp_path / "gone.so"), "PYTHONPATH": ""}
    done = subprocess.run([ROOT / "bench" / "gpu.sh", "--quick", "--model", TINY / "qwen3", "--build", BINARY.parent, "--tests",
                           "/bin/false"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1
    measured = json.loads((tmp_path / "gpu.json").read_text())
    ok = {name for name, stage in measured["stages"].items() if stage["ok"]}
    assert "cpu" in ok and "throughput" not in ok and "tests" not in ok
    assert "--device: is cuda, but the plugin of NANO_VLLM_CUDA_PLUGIN cannot be loaded" in measured["stages"]["throughput"]["why"]
    page = (pathlib.Path(tmp_path) / "gpu.md").read_text()
    assert "| throughput | **failed**: RuntimeError" in page and "the CPU backend, 1 thread" in page
