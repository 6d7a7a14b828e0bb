#!/usr/bin/env bash
# Runs the C and C++ programs under an emulator, for example `qemu-x86_64 -cpu Nehalem`: a processor without AVX.
set -euo pipefail
: "${1:?an emulator and its arguments}"
cd "$(dirname "$0")/../.."
INFINIOP_TEST_RUNNER="$*" .venv/bin/python -m pytest -q -p no:cacheprovider tests/abi/test_abi.py \
    -k "test_program or test_plugins or test_schema"
