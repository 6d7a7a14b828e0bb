#!/usr/bin/env bash
# The long runs: sanitizers, every instruction set, ten million wrong calls, large cases, a soak. About two hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python

step() { printf '\n== %s\n' "$*"; }

step "all tests, the long ones too"
$python -m pytest -n 2 tests --full

step "example backends, each a package of its own"
$python scripts/example_backends.py

for isa in portable v3 v4 v4bf16; do
    if INFINIOP_CPU_ISA=$isa $python -c 'import infiniop; infiniop.ops.add' 2>/dev/null &&
        INFINIOP_CPU_ISA=$isa $python -m infiniop backends --json | grep -q "($isa"; then
        step "operators and engine on the $isa build"
        INFINIOP_CPU_ISA=$isa $python -m pytest -n 2 -q tests/operators tests/lm
    else
        step "the $isa build cannot run on this machine: skipped"
    fi
done

step "the kit against the CPU kernels with one planted fault at a time"
$python tests/conformance/mutate.py

need() { # a command and the Debian package that has it
    if ! command -v "$1" >/dev/null && [ "$(id -u)" = 0 ]; then apt-get install -y -q "$2" >/dev/null; fi
    command -v "$1" >/dev/null || { echo "$1 is missing (apt-get install $2): skipped"; return 1; }
}

step "the portable build on a processor without AVX (qemu-user)"
if need qemu-x86_64 qemu-user; then tests/abi/baseline.sh qemu-x86_64 -cpu Nehalem; fi

step "C programs on arm64 (cross-compiled, qemu-user)"
if need qemu-aarch64 qemu-user && need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu; then
    tests/abi/arm64.sh qemu-aarch64 -L /usr/aarch64-linux-gnu
fi

step "ranks placed by Ray"
$python -m pip install -q "ray>=2.9"
$python -m pytest -q tests/examples/test_ray.py

step "a chat page in a browser"
if need chromium chromium && need chromedriver chromium-driver; then $python -m pytest -q tests/lm/test_server.py -k page; fi

step "a server under load for half an hour"
$python tests/lm/soak.py --minutes 30

for sanitizer in address thread; do
    step "C programs under the $sanitizer sanitizer"
    tests/abi/sanitizers.sh $sanitizer
done
