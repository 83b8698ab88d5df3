"""gpu.md from what run.py measured."""


def percent(value, limit):
    return f"{100 * value / limit:.0f} %" if value and limit else ""


def number(value, digits=3):
    return "" if value is None else f"{value:,.{max(0, digits - len(str(int(abs(value)))))}f}"


def rows(measured):
    """(measure, value, beside what) of what there is."""
    get = lambda stage: measured["stages"].get(stage, {}).get("figures", {})  # noqa: E731
    limits, bench, peer = get("limits"), get("throughput"), get("transformers")
    if limits:
        yield "bfloat16 matrix products", f"{limits['bf16_flops'] / 1e12:,.0f} TFLOP/s", "measured limit"
        yield "copies within the memory", f"{limits['bytes_per_second'] / 1e9:,.0f} GB/s", "measured limit"
    if bench:
        yield (f"{bench['requests']} requests at once, {bench['lengths']} random tokens in and out",
               f"{number(bench['output_tokens_per_second'], 5)} tokens/s out",
               f"{percent(bench.get('roofline_seconds'), bench['seconds'])} of the roofline" if bench.get("roofline_seconds") else "")
    if bench and peer:
        yield ("the same in transformers' continuous batching", f"{number(peer['output_tokens_per_second'], 5)} tokens/s out",
               f"nano-vLLM is {bench['output_tokens_per_second'] / peer['output_tokens_per_second']:.1f} × as fast")
    for stage, name in (("decode", "decode, 1 sequence, CUDA graphs"), ("decode eager", "the same, --enforce-eager")):
        if figures := get(stage):
            yield (name, f"{number(figures['tokens_per_second'], 4)} tokens/s",
                   f"{percent(figures['bytes_per_second'], limits.get('bytes_per_second'))} of the copy bandwidth" if limits else "")
    for stage in ("decode int8", "decode fp8"):
        if figures := get(stage):
            yield f"decode, 1 sequence, --quantization {stage.split()[1]}", f"{number(figures['tokens_per_second'], 4)} tokens/s", ""
    if start := get("start"):
        yield "start of the process until the first request can start", f"{start['seconds']:.2f} s", "model in the page cache"
        yield "the same, --enforce-eager", f"{start['eager_seconds']:.2f} s", "the difference records the CUDA graphs"
    for threads, rate in get("cpu").get("prefill", {}).items():
        decode = get("cpu")["decode"].get(threads)
        yield (f"the CPU backend, {threads} thread{'s' if int(threads) > 1 else ''}", f"{number(rate, 4)} tokens/s of a prompt",
               f"{number(decode, 4)} tokens/s of one sequence" if decode else "")


def page(measured):
    lines = ["# The CUDA backend on a GPU", "",
             f"Made by `bench/gpu.sh`; [docs/cuda.md](../../docs/cuda.md) says what each figure means. {measured['date']}, "
             f"{measured['machine']}.", "",
             "Random bfloat16 weights in the shape of Qwen3-0.6B." +
             (" **Tiny sizes (`--quick`): no figure means anything.**" if measured.get("quick") else ""), "",
             "| measure | value | |", "| --- | --- | --- |"]
    lines += [f"| {a} | {b} | {c} |" for a, b, c in rows(measured)]
    lines += ["", "| stage | | seconds |", "| --- | --- | --- |"]
    for name, stage in measured["stages"].items():
        note = stage["figures"].get("summary", "done") if stage["ok"] else f"**failed**: {stage['why']}"
        lines.append(f"| {name} | {' '.join(note.replace('|', '/').split())[:400]} | {stage['seconds']:.1f} |")
    return "\n".join(lines) + "\n"
