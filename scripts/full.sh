#!/usr/bin/env bash
# The long runs: sanitizers, every instruction set, ten million wrong calls, large cases, a soak. About three hours on two
# cores. A step that fails does not stop the others; the last lines name it.
set -uo pipefail
cd "$(dirname "$0")/.."
python=.venv/bin/python
failed=()

step() { # title, command
    printf '\n== %s\n' "$1"
    local from=$SECONDS
    "${@:2}" || failed+=("$1")
    printf '== %d min %d s\n' $(((SECONDS - from) / 60)) $(((SECONDS - from) % 60))
}

need() { # a command and the Debian package that has it
    if ! command -v "$1" >/dev/null && [ "$(id -u)" = 0 ]; then apt-get install -y -q "$2" >/dev/null; fi
    command -v "$1" >/dev/null || { printf '\n== %s is missing (apt-get install %s): a step is skipped\n' "$1" "$2" && false; }
}

step "all tests, the long ones too" $python -m pytest -n 2 tests --full
step "example backends, each a package of its own" $python scripts/example_backends.py
for isa in portable v3 v4 v4bf16; do
    if INFINIOP_CPU_ISA=$isa $python -m infiniop backends --json | grep -q "($isa,"; then
        step "operators and engine on the $isa build" \
            env INFINIOP_CPU_ISA=$isa $python -m pytest -n 2 -q tests/operators tests/lm
    else
        printf '\n== the %s build cannot run on this machine: skipped\n' "$isa"
    fi
done
step "the kit against the CPU kernels with one planted fault at a time" $python tests/conformance/mutate.py
if need qemu-x86_64 qemu-user; then
    step "the portable build on a processor without AVX (qemu-user)" tests/abi/baseline.sh qemu-x86_64 -cpu Nehalem
fi
if need qemu-aarch64 qemu-user && need aarch64-linux-gnu-g++ g++-aarch64-linux-gnu; then
    step "C programs on arm64 (cross-compiled, qemu-user)" tests/abi/arm64.sh qemu-aarch64 -L /usr/aarch64-linux-gnu
fi
if $python -m pip install -q "ray>=2.9"; then step "ranks placed by Ray" $python -m pytest -q tests/examples/test_ray.py; fi
if need chromium chromium && need chromedriver chromium-driver; then
    step "a chat page in a browser" $python -m pytest -q tests/lm/test_server.py -k page
fi
step "a server under load for half an hour" $python tests/lm/soak.py --minutes 30
for sanitizer in address thread; do
    step "C programs under the $sanitizer sanitizer" tests/abi/sanitizers.sh $sanitizer
done

if [ ${#failed[@]} -gt 0 ]; then
    printf '\nfailed:\n' && printf '  %s\n' "${failed[@]}" && exit 1
fi
printf '\nall passed\n'
