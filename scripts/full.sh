#!/usr/bin/env bash
# The long runs: sanitizers, every instruction set, ten million wrong calls, large cases. About an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

step() { printf '\n== %s\n' "$*"; }

step "all tests, the long ones too"
$python -m pytest -n 2 tests --full

for isa in portable v3 v4 v4bf16; do
    if INFINIOP_CPU_ISA=$isa $python -c 'import infiniop; infiniop.ops.add' 2>/dev/null &&
        INFINIOP_CPU_ISA=$isa $python -m infiniop backends --json | grep -q "($isa"; then
        step "operators and engine on the $isa build"
        INFINIOP_CPU_ISA=$isa $python -m pytest -n 2 -q tests/operators tests/lm
    else
        step "the $isa build cannot run on this machine: skipped"
    fi
done

step "the portable build on a processor without AVX (qemu-user)"
if ! command -v qemu-x86_64 >/dev/null && [ "$(id -u)" = 0 ]; then apt-get install -y -q qemu-user >/dev/null; fi
if command -v qemu-x86_64 >/dev/null; then
    tests/abi/baseline.sh qemu-x86_64 -cpu Nehalem
else
    echo "qemu-x86_64 is missing (apt-get install qemu-user): skipped"
fi

for sanitizer in address thread; do
    step "C programs under the $sanitizer sanitizer"
    tests/abi/sanitizers.sh $sanitizer
done
