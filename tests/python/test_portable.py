"""What the portable program asks of a machine, where it has been built (cmake --preset portable)."""

import re
import subprocess

import pytest

from paths import CHAT, ROOT

BUILD = ROOT / "build" / "portable"
OF_THE_C_LIBRARY = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2",
                    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


@pytest.mark.parametrize("file", ["nano-vllm", "libnano-vllm-cuda.so", "tests/test_cuda"])
def test_it_needs_the_c_library_only(file):
    if not (BUILD / file).exists():
        pytest.skip(f"build/portable has no {file}")
    listing = subprocess.run(["readelf", "-d", BUILD / file], stdout=subprocess.PIPE, text=True, check=True).stdout
    needed = {name for name in re.findall(r"\(NEEDED\).*\[(.+)\]", listing) if not name.startswith("libcublasLt.so.")}
    assert needed and needed <= OF_THE_C_LIBRARY


def test_it_answers():
    if not (BUILD / "nano-vllm").exists():
        pytest.skip("build/portable has no nano-vllm")
    done = subprocess.run([BUILD / "nano-vllm", "generate", CHAT, "-p", "x", "--max-tokens", "4"], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == 0 and done.stdout
