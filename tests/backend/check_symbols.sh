#!/bin/sh
# check_symbols.sh libnv_backend_cpu.a: fails if a kernel object holds a weak symbol. Such a symbol (an inline function or a
# template of a shared header) is compiled for one instruction set, and the linker may choose it for code that every
# machine runs.
set -eu
library=$1
objects=$(ar t "$library" | grep '^kernels_' || true)
[ -n "$objects" ] || { echo "no kernel objects in $library"; exit 1; }
leaks=$(nm -C "$library" | awk '/^kernels_.*:$/ { in_kernel = 1; next } /:$/ { in_kernel = 0 }
                                in_kernel && ($2 ~ /^[WVuwv]$/) { print }')
if [ -n "$leaks" ]; then
  echo "weak symbols in the kernel objects of $library:"
  echo "$leaks"
  exit 1
fi
echo "$objects: no weak symbols"
