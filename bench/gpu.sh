#!/usr/bin/env bash
# Everything that only a GPU can show, in one go of at most nine minutes: the tests of the CUDA backend, then its speed
# beside the machine's limits and transformers. Writes gpu.md and gpu.json into bench/results/, or into $OUT.
#
#   bench/gpu.sh [--quick] [--build FOLDER] [--minutes N]
#
# The machine needs a driver, the CUDA toolkit or torch (for cuBLASLt), and Python 3 with numpy; torch and transformers for
# the limits and the peer. What it runs was built elsewhere and brought along:
#   cmake --preset portable -DNANO_VLLM_CUDA=ON && cmake --build --preset portable --target nano-vllm nano-vllm-cuda test_cuda
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# cuBLASLt and NCCL: of the toolkit, or of torch's packages.
libraries=$(python3 - <<'PYTHON' || true
import importlib.util, pathlib
spec = importlib.util.find_spec("nvidia")
folders = [p for place in (spec.submodule_search_locations if spec else []) for p in pathlib.Path(place).glob("*/lib")]
print(":".join(map(str, folders)))
PYTHON
)
export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/cuda/lib64${libraries:+:$libraries}"
cd "$root"
exec python3 bench/gpu/run.py "$@"
