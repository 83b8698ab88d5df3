"""What the GPU gives at most, measured with torch: bfloat16 matrix products, and copies within its memory.

    python limits.py [--quick]      prints {"gpu", "bf16_flops", "bytes_per_second", ...}
"""

import json
import sys
import time

import torch


def best_seconds(run, rounds):
    best = float("inf")
    for _ in range(rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def main():
    quick = "--quick" in sys.argv
    n = 2048 if quick else 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    repeats = 4 if quick else 16

    def products():
        for _ in range(repeats):
            torch.matmul(a, b)

    flops = 2 * n**3 * repeats / best_seconds(products, 5)
    size = (1 << 26) if quick else (1 << 30)
    source = torch.empty(size, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    # A copy reads and writes; a decode step only reads, which no GPU does faster than it copies by much.
    moved = 2 * size / best_seconds(lambda: target.copy_(source), 10)
    properties = torch.cuda.get_device_properties(0)
    print(json.dumps({"gpu": properties.name, "memory_bytes": properties.total_memory, "torch": torch.__version__,
                      "cuda": torch.version.cuda, "bf16_flops": flops, "bytes_per_second": moved}))


if __name__ == "__main__":
    main()
