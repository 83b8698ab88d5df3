"""A minute of soak_serve.py; NANO_VLLM_SOAK_SECONDS makes it longer or shorter."""
import os

from conftest import TINY
from soak_serve import soak


def test_soak(binary):
    seconds = float(os.environ.get("NANO_VLLM_SOAK_SECONDS", "60"))
    counts = soak(binary, TINY / "llama-chat", seconds, memory="asan" not in binary and "tsan" not in binary)
    assert len(counts) >= 11 and min(counts.values()) > 0
