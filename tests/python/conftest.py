"""What all tests share."""

import subprocess

import pytest

from paths import BINARY, ROOT, TINY  # noqa: F401: the tests take them from here


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
