"""OpenVINO GenAI's continuous batching behind a pipe: JSON lines in, JSON lines out.

    python openvino_worker.py MODEL.gguf THREADS CACHE_GB PREFIX_CACHING

Runs in the environment that has openvino-genai. A request is {"prompts": [[ids]], "outputs": [tokens]}; the reply has its
seconds. The first line out reports the load.
"""

import json
import os
import sys
import time

reply = os.fdopen(os.dup(1), "w")  # the library may print
os.dup2(2, 1)


def answer(**fields):
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    print(json.dumps({**fields, "peak_memory_bytes": peak}), file=reply, flush=True)


begin = time.monotonic()
import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402
import openvino_genai as genai  # noqa: E402

model, threads, cache_gb, prefix_caching = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "1"
scheduler = genai.SchedulerConfig()
scheduler.cache_size, scheduler.max_num_batched_tokens, scheduler.max_num_seqs = cache_gb, 2048, 256
scheduler.enable_prefix_caching, scheduler.dynamic_split_fuse = prefix_caching, True
pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
answer(load_seconds=time.monotonic() - begin, version=genai.get_version())


def config(tokens):
    c = genai.GenerationConfig()
    c.max_new_tokens, c.ignore_eos, c.do_sample, c.apply_chat_template = tokens, True, False, False
    return c


for line in sys.stdin:
    request = json.loads(line)
    prompts = [ov.Tensor(np.array([ids], np.int64)) for ids in request["prompts"]]
    begin = time.monotonic()
    results = pipeline.generate(prompts, [config(n) for n in request["outputs"]])
    seconds = time.monotonic() - begin
    answer(seconds=seconds, tokens=sum(len(r.m_generation_ids[0]) for r in results))
