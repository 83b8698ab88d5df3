"""What bench/compare makes of its measurements: the limits that follow from the model's shape, the table, the picture."""

import dataclasses
import json
import pathlib
import sys
import xml.etree.ElementTree

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from suite import model, plot, report, scenarios, workload  # noqa: E402

LIMITS = {"threads": 2, "float32_gflops": 200.0, "bf16_gflops": 0.0, "int8_gops": 400.0, "read_gbytes": 30.0}
SIZES = workload.Sizes()


def results(figures):
    """{scenario: {entry: [figures of a round]}} as comparison.json holds it."""
    return {"machine": {"processor": "A & B", "threads": 2},
            "scenarios": {key: {"date": "2000-01-01", "quick": False, "limits": LIMITS, "versions": {},
                                "sizes": json.loads(json.dumps(dataclasses.asdict(SIZES))),
                                "entries": {name: {"weights_bytes": 1.2e9, "figures": f} for name, f in entries.items()}}
                          for key, entries in figures.items()}}


PREFILL = results({"prefill": {"nano-vLLM/bf16": [{"rate": 150}, {"rate": 170}, {"rate": 160}], "llama.cpp/bf16": [{"rate": 100}],
                               "nano-vLLM/int8": [{"rate": 300}], "llama.cpp/q8_0": [{"rate": 120}]}})


def test_the_shape_has_the_parameters_of_the_model():
    shapes = [shape for _, _, shape in model.tensors()]
    matrices = sum(int(np.prod(s)) for s in shapes if len(s) == 2)
    assert workload.QWEN3.layer_parameters() + workload.QWEN3.head_parameters() == matrices
    assert sum(int(np.prod(s)) for s in shapes) == 596_049_920


def test_operations_of_a_prompt_by_counting():
    shape = workload.Shape(layers=2, hidden=4, inner=6, heads=2, kv_heads=1, head_dim=3, vocabulary=10)
    total = 0
    for position in range(5):
        for _ in range(2):
            total += 2 * (4 * 6 + 4 * 3 + 4 * 3 + 6 * 4 + 3 * 4 * 6)  # q, k, v, o, MLP
            total += 2 * 2 * (position + 1) * 2 * 3  # scores and sums
    total += 2 * 4 * 10
    assert shape.operations(*shape.sequence(5, 1)) == total


def test_the_limit_is_the_slower_of_arithmetic_and_reading():
    assert workload.least_seconds(LIMITS, "bf16", 400e9, 30e9) == pytest.approx(2)
    assert workload.least_seconds(LIMITS, "bf16", 100e9, 30e9) == pytest.approx(1)
    assert workload.least_seconds(LIMITS, "int8", 400e9, 0) == pytest.approx(1)


def test_rows_have_medians_ratios_of_the_same_width_and_limits():
    rows = {(r["engine"], r["weights"]): r for r in report.rows(PREFILL)}
    ours = rows["nano-vLLM", "bf16"]
    assert ours["value"] == 160 and ours["ratios"] == {"llama.cpp": pytest.approx(1.6)}
    assert rows["nano-vLLM", "int8"]["ratios"] == {"llama.cpp": pytest.approx(2.5)}
    assert rows["llama.cpp", "bf16"]["ratios"] == {}
    assert 200 < ours["limit"] < 227  # 227: without attention
    text = report.table(PREFILL)
    assert "160 (150–170) | 1.60 |" in text and f"{100 * 160 / ours['limit']:.0f} % of" in text


def test_less_time_is_faster():
    load = results({"load": {"nano-vLLM/bf16": [{"ready": 1.0}], "OpenVINO GenAI/f16": [{"ready": 20.0}]}})
    assert next(report.rows(load))["ratios"] == {"OpenVINO GenAI": pytest.approx(20)}


def test_the_slope_of_a_line():
    assert scenarios.slope({"512": 1.0, "1024": 1.5, "2048": 2.5}) == pytest.approx(0.5 / 512)


def test_requests_are_the_same_every_time_and_within_bounds():
    first, second = workload.serving_requests(SIZES), workload.serving_requests(SIZES)
    assert first == second and len(first) == 64
    assert all(25 <= len(ids) <= 256 and 25 <= out <= 256 for ids, out in first)


def test_the_picture_has_a_bar_and_a_figure_for_each_entry():
    tree = xml.etree.ElementTree.fromstring(plot.draw(PREFILL))
    name = "{http://www.w3.org/2000/svg}"
    bars = [r for r in tree.iter(name + "rect") if r.get("class") in ("ours", "llama", "vino")]
    words = [t.text for t in tree.iter(name + "text")]
    assert len(bars) == 4 and {"160", "100", "300", "120", "nano-vLLM int8", "A & B, threads: 2"} <= set(words)
    assert all(0 < float(b.get("x")) and float(b.get("x")) + float(b.get("width")) < 960 for b in bars)
    by_width = sorted(bars, key=lambda b: float(b.get("width")))
    assert by_width[-1].get("class") == "ours" and by_width[0].get("class") == "llama"
