"""Where the tests find what they test. NANO_VLLM_BUILD names the build folder; build/release is the default."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "data" / "tiny"
CHAT = TINY / "llama-chat"
BINARY = ROOT / os.environ.get("NANO_VLLM_BUILD", "build/release") / "nano-vllm"
# What is freed is kept for a while there, and everything is slower.
SANITIZED = "asan" in str(BINARY) or "tsan" in str(BINARY)
