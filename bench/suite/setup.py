"""Finds or builds what the benchmarks run: this engine's programs, llama.cpp, OpenVINO GenAI. All of it lies in build/bench."""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "bench"
RELEASE = ROOT / "build" / "release"

LLAMA_PACKAGE = "llama-cpp-python==0.3.36"  # its source holds llama.cpp's
LLAMA_FOLDER = "llama_cpp_python-0.3.36"
LLAMA_SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
LLAMA_TOOLS = ("llama-bench", "llama-batched-bench", "llama-server", "llama-quantize")
TOOLS = ["numpy", "gguf==0.19.0", "scikit-build-core==1.1.2"]
OPENVINO_PACKAGE = "openvino-genai==2026.4.*"


class Failure(Exception):
    """Ends the command with one line on stderr."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run_logged(name, command, **more):
    """Runs a command with its output in build/bench/NAME.log; shows the log's end if it fails."""
    WORK.mkdir(parents=True, exist_ok=True)
    log = WORK / f"{name}.log"
    with open(log, "w") as out:
        status = subprocess.run([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT, **more).returncode
    if status:
        say("".join(log.read_text(errors="replace").splitlines(keepends=True)[-40:]))
        raise Failure(f"failed: {' '.join(map(str, command))}; the whole log is {log}")


def build_engine():
    """Builds nano-vllm and the programs of bench/ in build/release."""
    say("building nano-vllm")
    run_logged("configure", ["cmake", "--preset", "release", "-DNANO_VLLM_BENCH=ON"], cwd=ROOT)
    run_logged("build", ["cmake", "--build", RELEASE, "--target", "nano-vllm", "bench_limits", "bench_quality",
                         "bench_context"])


def venv(name, packages):
    """The Python of a virtual environment with these packages."""
    folder = WORK / name
    python, stamp = folder / "bin" / "python", folder / "packages"
    if not stamp.exists() or stamp.read_text() != " ".join(packages):
        say(f"installing {' '.join(packages)} into {folder}")
        run_logged(name, [sys.executable, "-m", "venv", "--clear", folder])
        run_logged(name, [python, "-m", "pip", "install", "-q", *packages])
        stamp.write_text(" ".join(packages))
    return python


class Llama:
    """llama.cpp: a folder of programs, and its source."""

    def __init__(self, programs):
        self.programs = pathlib.Path(programs).resolve()
        missing = [t for t in LLAMA_TOOLS if not (self.programs / t).exists()]
        if missing:
            raise Failure(f"{self.programs} has no {', '.join(missing)}")
        self.source = self.programs.parents[1]

    def __truediv__(self, tool):
        return self.programs / tool


def tools():
    """A Python for what the standard library lacks."""
    return venv("tools", TOOLS)


def llama_source():
    source = WORK / LLAMA_FOLDER / "vendor" / "llama.cpp"
    if source.exists():
        return source
    archive = WORK / f"{LLAMA_FOLDER}.tar.gz"
    say(f"fetching the source of {LLAMA_PACKAGE}")
    # With pip, which knows this machine's index; it asks the package's build system, among the tools, for its metadata.
    run_logged("llama-download", [tools(), "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation", "--no-binary",
                                  ":all:", "-d", WORK, LLAMA_PACKAGE])
    if hashlib.sha256(archive.read_bytes()).hexdigest() != LLAMA_SHA256:
        raise Failure(f"{archive} is not the file it should be")
    partial = WORK / "unpacking"
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(partial)  # the hash says that it is harmless
    (partial / LLAMA_FOLDER).rename(WORK / LLAMA_FOLDER)
    partial.rmdir()
    return source


def find_llama(programs=None):
    """llama.cpp in `programs`, in $NANO_VLLM_BENCH_LLAMA, or built for this machine from its pinned source."""
    programs = programs or os.environ.get("NANO_VLLM_BENCH_LLAMA")
    if programs:
        return Llama(programs)
    source = llama_source()
    build = source / "build"
    if not all((build / "bin" / t).exists() for t in LLAMA_TOOLS):
        say("building llama.cpp (about 20 minutes on two cores)")
        run_logged("llama-configure", ["cmake", "-S", source, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release",
                                       "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
                                       "-DLLAMA_BUILD_EXAMPLES=OFF"])
        run_logged("llama-build", ["cmake", "--build", build, "--target", *LLAMA_TOOLS])
    return Llama(build / "bin")


def find_openvino(python=None):
    """A Python that has openvino-genai: `python`, $NANO_VLLM_BENCH_OPENVINO, or a virtual environment made here."""
    python = python or os.environ.get("NANO_VLLM_BENCH_OPENVINO")
    return pathlib.Path(python) if python else venv("openvino", [OPENVINO_PACKAGE])
