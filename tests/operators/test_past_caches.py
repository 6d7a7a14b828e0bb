"""Results that are written past the caches: told that the cache is tiny, every kernel that can does so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SAMPLES = """
from infiniop.conformance import runner
from infiniop.operators import all_operators
import numpy as np

for name, op in all_operators().items():
    for sample in op.samples(np.random.default_rng(0)):
        if sum(a.nbytes for a in sample.tensors.values() if a is not None) < 1 << 20:
            failures = runner.run_sample(op, sample, "cpu")
            assert not failures, (name, sample.name, failures)
"""

DIGEST = """
import hashlib
import numpy as np
from infiniop import ops

rng = np.random.default_rng(1)
digest = hashlib.sha256()


def place(shape, dtype, offset):
    memory = np.full(np.prod(shape) + 200, 77, dtype)
    skip = (-memory.ctypes.data % 64) // memory.itemsize + offset
    return memory, memory[skip : skip + np.prod(shape)].reshape(shape)


for dtype in (np.float16, np.float32, np.float64):
    for shape in ((1, 1), (1, 15), (1, 64), (3, 33), (1, 4097), (2, 40000)):
        a, b = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
        for offset in (0, 1, 2, 5, 16, 31):
            for call, inputs in ((ops.add, 2), (ops.relu, 1), (ops.silu, 1), (ops.softmax, 1), (ops.silu_and_mul, 0)):
                if dtype == np.float64 and call in (ops.softmax, ops.silu_and_mul):
                    continue
                memory, out = place(shape, dtype, offset)
                call(*((a, b)[:inputs] or [np.concatenate((a, b), -1)]), out=out)
                digest.update(memory.tobytes())
            memory, out = place(shape, dtype, offset)
            out[...] = a
            ops.add(out, b, out=out)
            digest.update(memory.tobytes())
print(digest.hexdigest())
"""

REFUSED = "from infiniop import ops; import numpy as np; ops.relu(np.ones(3, np.float32))"


def run(script: str, cache: object) -> str:
    env = {**os.environ, "INFINIOP_CPU_CACHE_BYTES": str(cache)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_same_bits_and_nothing_beside_them() -> None:
    assert run(DIGEST, 64) == run(DIGEST, 1 << 40)


def test_a_bad_size_is_one_sentence() -> None:
    for text in ("0", "-1", "32M", "many"):
        said = f"INFINIOP_CPU_CACHE_BYTES={text} is ignored: expected a number of bytes above 0\n"
        assert run(REFUSED, text).endswith(said)


@pytest.mark.full
def test_every_sample() -> None:
    run(SAMPLES, 64)
