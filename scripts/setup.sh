# Shared by ./run and ./test: installs what is missing and builds a CMake preset. Sourced, with $root set. Everything it
# says goes to stderr; a build is quiet unless it fails.

build_packages=(
  ca-certificates cmake ninja-build g++ pkg-config nlohmann-json3-dev libpcre2-dev libutf8proc-dev libfmt-dev
  libxxhash-dev libboost1.81-dev libcurl4-openssl-dev libssl-dev python3 python3-pip
)
test_packages=(libgtest-dev libgmock-dev clang libclang-rt-14-dev llvm python3-venv chromium chromium-driver libopenmpi-dev openmpi-bin iproute2)
if [[ $(uname -m) == x86_64 ]]; then  # to test for Arm
  test_packages+=(g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
fi

say() { printf '%s\n' "$*" >&2; }

# Runs a command with its output in a log; shows the log's end if it fails.
quietly() {
  local log=$1
  shift
  if ! "$@" >"$log" 2>&1; then
    tail -n 60 "$log" >&2
    say "failed: $*"
    say "the whole log is in $log"
    return 1
  fi
}

install_packages() {
  local missing=() package
  for package in "$@"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
  done
  [[ ${#missing[@]} -eq 0 ]] && return
  if ! command -v apt-get >/dev/null; then
    say "missing: ${missing[*]}; this script installs packages on Debian only"
    return 1
  fi
  local as_root=()
  if [[ $(id -u) -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
      say "missing: ${missing[*]}; run as root once, or install sudo"
      return 1
    fi
    as_root=(sudo)
  fi
  say "installing ${missing[*]}"
  mkdir -p "$root/build"
  quietly "$root/build/apt.log" "${as_root[@]}" apt-get update
  quietly "$root/build/apt.log" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${missing[@]}"
}

# Whether there is a CUDA compiler that the CUDA backend can be built with: 12.4 or later.
has_cuda_compiler() {
  local nvcc version
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\),.*/\1 \2/p')
  [[ -n $version ]] && ((${version% *} * 100 + ${version#* } >= 1204))
}

# build_preset PRESET TARGET... ; the tests are part of every configuration if GoogleTest is there, so that ./run and ./test
# share one build folder, and the CUDA backend is part of the release if there is a compiler for it.
# A unity build takes half the time.
build_preset() {
  local preset=$1 tests=OFF cuda=OFF folder="$root/build/$1"
  shift
  [[ -f /usr/include/gtest/gtest.h ]] && tests=ON
  [[ $preset == release ]] && has_cuda_compiler && cuda=ON
  mkdir -p "$folder"
  [[ -f $folder/build.ninja ]] || say "building $preset (the first time takes some minutes)"
  if [[ ! -f $folder/build.ninja ]] ||
    [[ $(grep -cE "NANO_VLLM_(TESTS:BOOL=$tests|CUDA:BOOL=$cuda)\$" "$folder/CMakeCache.txt") -ne 2 ]]; then
    (cd "$root" && quietly "$folder/configure.log" cmake --preset "$preset" -DNANO_VLLM_TESTS=$tests -DNANO_VLLM_CUDA=$cuda \
      -DCMAKE_UNITY_BUILD=ON)
  fi
  quietly "$folder/build.log" cmake --build "$folder" --target "$@"
}
