"""A minute of soak_serve.py; NANO_VLLM_SOAK_SECONDS makes it longer or shorter."""
import os

from paths import CHAT, SANITIZED
from soak_serve import soak


def test_soak(binary):
    seconds = float(os.environ.get("NANO_VLLM_SOAK_SECONDS", "60"))
    counts = soak(binary, CHAT, seconds, memory=not SANITIZED)
    assert len(counts) >= 11 and min(counts.values()) > 0
