"""How long one key waits for its first token while another floods the server.

  nano-vllm serve --port 8000 --api-key-file keys.json      # with two keys
  python bench/fairness.py --light KEY --flood KEY [--url http://127.0.0.1:8000]

Prints the time to the first token of one request a second, on a quiet server and under a flood of a thousand requests
at once, and the ratio of the medians. Needs aiohttp.
"""

import argparse
import asyncio
import random
import statistics
import time

import aiohttp

WORDS = "the quick brown fox jumps over a lazy dog while rain falls on old stones near our river".split()


async def first_token(session, url, key, words, max_tokens):
    body = {"prompt": " ".join(random.choices(WORDS, k=words)), "max_tokens": max_tokens, "stream": True,
            "ignore_eos": True}
    start, first = time.perf_counter(), None
    async with session.post(url + "/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        response.raise_for_status()
        async for line in response.content:
            if first is None and line.startswith(b"data:"):
                first = time.perf_counter() - start
    return first


async def once_a_second(session, args):
    tasks = []
    for _ in range(args.requests):
        tasks.append(asyncio.create_task(first_token(session, args.url, args.light, args.words, 16)))
        await asyncio.sleep(1)
    return await asyncio.gather(*tasks)


async def main(args):
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0),
                                     timeout=aiohttp.ClientTimeout(total=None)) as session:
        await first_token(session, args.url, args.light, args.words, 16)  # warm
        quiet = await once_a_second(session, args)
        flood = [asyncio.create_task(first_token(session, args.url, args.flood, args.flood_words, args.flood_tokens))
                 for _ in range(args.flood_requests)]
        await asyncio.sleep(5)
        flooded = await once_a_second(session, args)
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
    for name, times in (("quiet", quiet), ("flooded", flooded)):
        print(f"{name:8} median {statistics.median(times) * 1e3:.0f} ms, longest {max(times) * 1e3:.0f} ms")
    print(f"ratio of the medians {statistics.median(flooded) / statistics.median(quiet):.2f}")


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--light", required=True, help="key of one request a second")
parser.add_argument("--flood", required=True, help="key of the flood")
parser.add_argument("--requests", type=int, default=10)
parser.add_argument("--words", type=int, default=15)
parser.add_argument("--flood-requests", type=int, default=1000)
parser.add_argument("--flood-words", type=int, default=15)
parser.add_argument("--flood-tokens", type=int, default=50)
asyncio.run(main(parser.parse_args()))
