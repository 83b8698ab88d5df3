"""transformers' continuous batching on the same requests.

    python transformers_batch.py MODEL REQUESTS.jsonl      prints {"output_tokens_per_second", "transformers"}
"""

import json
import sys
import time

import torch
import transformers


def main():
    model_path, requests_path = sys.argv[1:3]
    with open(requests_path) as file:
        requests = [json.loads(line) for line in file]
    model = transformers.AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16, device_map="cuda",
                                                              attn_implementation="sdpa")
    model.eval()
    most = max(r["output_tokens"] for r in requests)
    config = transformers.GenerationConfig(max_new_tokens=most, do_sample=False, eos_token_id=-1, pad_token_id=0)
    prompts = [r["prompt"] for r in requests]

    def run(prompts):
        with torch.inference_mode():
            return model.generate_batch(inputs=prompts, generation_config=config)

    run([p[:8] for p in prompts[:2]])  # what the first call costs is not counted
    torch.cuda.synchronize()
    start = time.perf_counter()
    outputs = run(prompts)
    torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    tokens = sum(len(output.generated_tokens) for output in outputs.values())
    print(json.dumps({"output_tokens": tokens, "seconds": elapsed, "output_tokens_per_second": tokens / elapsed,
                      "transformers": transformers.__version__}))


if __name__ == "__main__":
    main()
