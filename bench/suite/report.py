"""The results file, and the page made of it."""

import statistics

from . import scenarios, workload


def median(values):
    return statistics.median(values)


def rows(results):
    """One for each scenario, metric and entry, in the order of the tables: a dict."""
    for scenario in scenarios.SCENARIOS:
        run = results["scenarios"].get(scenario.key)
        if not run:
            continue
        sizes = workload.Sizes(**run["sizes"])
        for metric in scenario.metrics:
            found = []
            for name in scenario.engines:
                entry = run["entries"].get(name)
                values = entry and [f[metric.key] for f in entry["figures"] if metric.key in f]
                if not values:
                    continue
                engine, weights = name.split("/")
                limit = metric.limit and metric.limit(scenario, weights, entry["weights_bytes"], run["limits"], sizes)
                found.append({"scenario": scenario, "run": run, "metric": metric, "engine": engine, "weights": weights,
                              "title": metric.title.format(**run["sizes"]), "value": median(values), "values": values,
                              "limit": limit})
            for row in found:
                row["ratios"] = {peer["engine"]: speedup(row, peer) for peer in found
                                 if row["engine"] == "nano-vLLM" and peer["engine"] != "nano-vLLM" and
                                 workload.bits(peer["weights"]) == workload.bits(row["weights"]) and
                                 metric.unit in ("tokens/s", "s")}
            yield from found


def speedup(row, peer):
    """Above 1: `row` is the faster one."""
    return row["value"] / peer["value"] if row["metric"].unit == "tokens/s" else peer["value"] / row["value"]


def number(value, unit):
    if unit == "MB":
        return f"{value / 1e6:,.0f} MB"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    suffix = {"tokens/s": "", "x": " ×", "%": " %"}.get(unit, " " + unit)
    return f"{value:.{digits}f}{suffix}"


def spread(values, unit):
    if len(values) < 2 or unit == "MB":
        return ""
    return f" ({number(min(values), unit)}–{number(max(values), unit)})"


def share(row):
    if not row["limit"]:
        return ""
    if row["metric"].unit == "tokens/s":
        return f"{100 * row['value'] / row['limit']:.0f} % of {number(row['limit'], 'tokens/s')}"
    return f"limit {number(row['limit'], row['metric'].unit)}"


def table(results):
    lines = ["| measure | engine, weights | median | faster than llama.cpp, × | than OpenVINO, × | of the machine's limit |",
             "| --- | --- | --- | --- | --- | --- |"]
    last = None
    for row in rows(results):
        title = row["title"] if row["scenario"].shape is workload.QWEN3 else "SmolLM2 Q4_1: " + row["title"]
        unit = row["metric"].unit
        ratio = {k: f"{v:.2f}" for k, v in row["ratios"].items()}
        name = f"{row['engine']}, {row['weights']}"
        lines.append(f"| {title if title != last else ''} | {'**' + name + '**' if row['engine'] == 'nano-vLLM' else name} | "
                     f"{number(row['value'], unit)}{spread(row['values'], unit)} | {ratio.get('llama.cpp', '')} | "
                     f"{ratio.get('OpenVINO GenAI', '')} | {share(row)} |")
        last = title
    return "\n".join(lines) + "\n"


def context_table(results):
    """Milliseconds a token at each length."""
    run = results["scenarios"].get("context")
    if not run or not run["entries"]:
        return ""
    contexts = [str(c) for c in run["sizes"]["contexts"]]
    lines = ["\n## Time of a decoded token against context, ms\n", "| engine, weights | " + " | ".join(contexts) + " |",
             "| --- |" + " --- |" * len(contexts)]
    for name, entry in run["entries"].items():
        values = [median([f["seconds_per_token"][c] for f in entry["figures"]]) for c in contexts]
        lines.append(f"| {name.replace('/', ', ')} | " + " | ".join(f"{1e3 * v:.1f}" for v in values) + " |")
    return "\n".join(lines) + "\n"


def limits_text(runs):
    """Lowest and highest over the runs of the scenarios."""
    def text(key, digits, unit):
        values = sorted({round(run["limits"][key], digits) for run in runs})
        if not values[-1]:
            return []
        ends = [values[0]] if len(values) == 1 else [values[0], values[-1]]
        return ["–".join(f"{v:.{digits}f}" for v in ends) + unit]

    return ", ".join(text("float32_gflops", 0, " GFLOP/s of float32 multiply-adds") +
                     text("bf16_gflops", 0, " GFLOP/s of bfloat16 ones") + text("int8_gops", 0, " G/s of 8-bit ones") +
                     text("read_gbytes", 1, " GB/s read"))


def page(results, docs):
    machine = results["machine"]
    runs = results["scenarios"].values()
    versions = {}
    for run in runs:
        versions.update(run.get("versions", {}))
    dates = sorted({run["date"] for run in runs})
    quick = any(run.get("quick") for run in runs)
    return (f"# nano-vLLM beside its peers\n\n"
            f"{machine['processor']}, threads: {machine['threads']}, {dates[0]}{'' if len(dates) == 1 else ' to ' + dates[-1]}. "
            f"{', '.join(f'{k} {v}' for k, v in sorted(versions.items()))}."
            f"{' **Made with --quick: the figures mean nothing.**' if quick else ''}\n\n"
            f"The machine's limits, measured with each scenario: {limits_text(runs)}.\n\n"
            f"Medians, with the lowest and highest of the rounds; the engines take turns. Ratios compare the same width of weights. "
            f"The model is random weights in the shape of Qwen3-0.6B unless SmolLM2 is named. "
            f"[docs/benchmarks.md]({docs}/benchmarks.md) says what each figure means.\n\n"
            f"![the table as a picture](comparison.svg)\n\n{table(results)}{context_table(results)}")
