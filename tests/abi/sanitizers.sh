#!/usr/bin/env bash
# Builds the core and the CPU backend with a sanitizer, address (with undefined) or thread, in a folder of its own below
# build/, and runs the C and C++ programs of this folder on that build; with address also the samples of every operator,
# on each build of the kernels that this machine can run.
set -euo pipefail
sanitizer=${1:?address or thread}
shift
cd "$(dirname "$0")/../.."
bin=$PWD/.venv/bin build=$PWD/build/sanitize-$sanitizer
prefix=$build/prefix

case $sanitizer in
address) flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" ;;
thread) flags="-fsanitize=thread" ;;
*) echo "unknown sanitizer $sanitizer: address or thread" >&2 && exit 2 ;;
esac

PATH=$bin:$PATH cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DINFINIOP_SANITIZE="$sanitizer" \
    -DCMAKE_BUILD_WITH_INSTALL_RPATH=ON -DPython_EXECUTABLE="$bin/python" >/dev/null
builds=portable
if [ "$sanitizer" = address ]; then
    for isa in v3 v4 v4bf16; do
        if INFINIOP_CPU_ISA=$isa "$bin/infiniop" backends --json | grep -q "($isa,"; then builds+=" $isa"; fi
    done
fi
PATH=$bin:$PATH ninja -C "$build" infinirt infiniop infiniccl infiniop_cpu $(printf 'infiniop_cpu_%s ' $builds)

mkdir -p "$prefix/lib/infiniop/backends.d"
cp "$build"/lib*.so "$build"/backends/cpu/*.so "$prefix/lib"
cp "$build/generated/backends.d/cpu.json" "$prefix/lib/infiniop/backends.d"
cp -r include "$build/generated/include" "$prefix"

export INFINI_ROOT=$prefix INFINIOP_TEST_FLAGS=$flags INFINIOP_CPU_ISA=portable
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:allocator_may_return_null=1
export UBSAN_OPTIONS=print_stacktrace=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1:allocator_may_return_null=1
"$bin/python" -m pytest -q -p no:cacheprovider tests/abi/test_{abi,cpp,loading,registry,verify_abi,versions,cpu_threads}.py "$@"

# The fuzzer, the samples of every operator and long rows, in a Python that loads the instrumented libraries.
if [ "$sanitizer" = address ]; then
    export INFINIOP_ROOT=$prefix INFINIOP_FFI=abi LD_PRELOAD=$(g++ -print-file-name=libasan.so)
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1
    python=("$bin/python" -m pytest -q -s -p no:cacheprovider)
    "${python[@]}" tests/abi/test_fuzz.py
    for isa in $builds; do
        echo "== samples on the $isa build"
        INFINIOP_CPU_ISA=$isa "${python[@]}" tests/operators/test_{samples,selection}.py -k "not reference"
    done
fi
