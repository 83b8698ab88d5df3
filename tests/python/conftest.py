"""Where the tests find what they test. NANO_VLLM_BUILD names the build folder; build/release is the default."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "data" / "tiny"
BINARY = ROOT / os.environ.get("NANO_VLLM_BUILD", "build/release") / "nano-vllm"


@pytest.fixture(scope="session")
def binary():
    assert BINARY.exists(), f"{BINARY} is not built; build it or set NANO_VLLM_BUILD"
    return str(BINARY)


@pytest.fixture(scope="session")
def cli(binary):
    """cli("generate", ..., stdin="text") -> CompletedProcess with bytes."""

    def run(*args, stdin=b"", timeout=120, **more):
        if isinstance(stdin, str):
            stdin = stdin.encode()
        command = [binary, *map(str, args)]
        if "stdout" not in more:
            more["stdout"] = subprocess.PIPE
        return subprocess.run(command, input=stdin, stderr=subprocess.PIPE, timeout=timeout, **more)

    return run
