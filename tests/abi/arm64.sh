#!/usr/bin/env bash
# Cross-compiles the core and the CPU backend for arm64, in a folder of its own below build/. With an argument, an
# emulator (`qemu-aarch64 -L /usr/aarch64-linux-gnu`), it also runs the C and C++ programs of this folder on that build.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$PWD/.venv/bin build=$PWD/build/arm64
prefix=$build/prefix tools=aarch64-linux-gnu-

PATH=$bin:$PATH cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME=Linux \
    -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER=${tools}gcc -DCMAKE_CXX_COMPILER=${tools}g++ \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DPython_EXECUTABLE="$bin/python" >/dev/null
PATH=$bin:$PATH ninja -C "$build" infinirt infiniop infiniccl infiniop_cpu infiniop_cpu_portable
[ $# -gt 0 ] || exit 0

mkdir -p "$prefix/lib/infiniop/backends.d"
cp "$build"/lib*.so "$build"/backends/cpu/*.so "$prefix/lib"
cp "$build/generated/backends.d/cpu.json" "$prefix/lib/infiniop/backends.d"
cp -r include "$prefix"
export INFINI_ROOT=$prefix INFINIOP_TEST_TOOLS=$tools INFINIOP_TEST_RUNNER="$*"
"$bin/python" -m pytest -q -p no:cacheprovider tests/abi/test_abi.py -k "test_program or test_plugins or test_schema"
