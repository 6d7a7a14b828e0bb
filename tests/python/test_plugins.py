"""Plugins and Python backends: contained failures, one table for all, exceptions as statuses, foreign threads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import infiniop
from infiniop import errors, ops
from infiniop._library import ffi, is_extension, lib
from infiniop.schema import BadValue


def add_kernel(c, a, b) -> None:
    np.add(a, b, out=c)


def register(name: str, **options) -> None:
    infiniop.PythonBackend(name, explicit_only=True, **options).register()


def test_a_python_kernel_serves_calls() -> None:
    seen = {}

    def kernel(c, a, b) -> None:
        seen.update(writeable=(c.flags.writeable, a.flags.writeable), shape=a.shape, strides=a.strides)
        c[...] = a + 2 * b

    register("twice", kernels={"add": kernel}, version="3")
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(ops.add(a[:, ::-2], a[:, ::2], backend="twice"), a[:, ::-2] + 2 * a[:, ::2])
    assert seen == {"writeable": (True, False), "shape": (3, 2), "strides": (16, -8)}
    assert np.array_equal(ops.add(a, a), 2 * a), "explicit_only: never chosen unless named"
    row = next(b for b in infiniop.backends() if b.name == "twice")
    assert (row.device, row.version, row.kernels, row.explicit_only) == ("cpu", "3", 1, True)
    assert row.has("add") and not row.has("mul")


def test_attributes_optionals_and_empty_tensors_reach_the_kernel() -> None:
    calls = []

    def rms_norm(**arguments) -> None:
        calls.append(arguments)

    def linear(y, x, weight, bias, activation_bits) -> None:
        y[...] = x @ weight.T + (0 if bias is None else bias)

    register("curious", kernels={"rms_norm": rms_norm, "linear": linear})
    ops.rms_norm(np.ones((2, 4), np.float16), np.ones(4, np.float16), epsilon=0.5, backend="curious")
    assert calls[0]["epsilon"] == 0.5 and calls[0]["x"].dtype == np.float16
    x, w = np.ones((2, 4), np.float32), np.ones((3, 4), np.float32)
    assert (ops.linear(x, w, backend="curious") == 4).all()
    assert (ops.linear(x, w, np.ones(3, np.float32), backend="curious") == 5).all()


def test_exceptions_become_statuses_with_messages() -> None:
    failures = [
        BadValue("a", "something else", "this"), KeyError("lost"), NotImplementedError("not yet"),
        errors.TensorStridesError(op="add", argument="b", expected="order", got="chaos"),
    ]  # fmt: skip

    def kernel(c, a, b) -> None:
        raise failures[int(a[0])]

    register("fragile", kernels={"add": kernel})

    def call(which: int) -> errors.InfiniopError:
        with pytest.raises(errors.InfiniopError) as caught:
            ops.add(np.full(2, which, np.float32), np.ones(2, np.float32), backend="fragile")
        return caught.value

    bad = call(0)
    assert isinstance(bad, errors.BadParamError) and (bad.argument, bad.expected, bad.got) == (
        "a",
        "something else",
        "this",
    )
    lost = call(1)
    assert isinstance(lost, errors.InternalError) and "KeyError" in str(lost) and "lost" in str(lost)
    assert isinstance(call(2), errors.NotImplementedByBackendError) and "not yet" in str(call(2))
    assert isinstance(call(3), errors.TensorStridesError) and "chaos" in str(call(3))


def test_supports_is_asked() -> None:
    def supports(op, signatures, attrs):
        return signatures["a"].dtype is infiniop.float32 or "only float32 here"

    register("picky", kernels={"add": add_kernel}, supports=supports)
    a = np.ones(3, np.float32)
    assert (ops.add(a, a, backend="picky") == 2).all()
    with pytest.raises(errors.InfiniopError, match="only float32 here"):
        ops.add(a.astype(np.float16), a.astype(np.float16), backend="picky")


def test_kernels_may_call_operators() -> None:
    def attention(out, q, k, v, k_cache, v_cache, pos) -> None:
        ops.attention(q, k, v, k_cache, v_cache, pos=pos, out=out)  # takes scratch memory of its own

    register("delegating", kernels={"attention": attention})
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 5, 16)).astype(np.float32)
    caches = [np.zeros((2, 8, 16), np.float32) for _ in range(4)]
    expected = ops.attention(q, q, q, caches[0], caches[1], pos=0)[0]
    assert np.array_equal(ops.attention(q, q, q, caches[2], caches[3], pos=0, backend="delegating")[0], expected)


def test_a_device_of_its_own() -> None:
    class Counting(infiniop.PythonRuntime):
        freed = 0

        def free(self, device_id: int, address: int) -> None:
            Counting.freed += 1
            super().free(device_id, address)

    def kernel(c, a, b) -> None:
        assert isinstance(a, infiniop.Tensor) and a.device.name == "abacus"
        for out, x, y in zip(memory(c), memory(a), memory(b), strict=True):
            out[...] = x + y

    def memory(tensor: infiniop.Tensor) -> np.ndarray:
        raw = ffi.buffer(ffi.cast("char *", tensor.data_ptr), tensor.nbytes)
        return np.frombuffer(raw, np.float32).reshape(tensor.shape)

    infiniop.PythonBackend("beads", device="abacus", kernels={"add": kernel}, runtime=Counting(2)).register()
    from infiniop import runtime

    assert runtime.device_count("abacus") == 2
    host = np.arange(6, dtype=np.float32).reshape(2, 3)
    for device in ("abacus", "abacus:1"):
        a = infiniop.asarray(host, device=device)
        made = ops.add(a, a)
        assert made.device is infiniop.Device(device) and made.to("cpu").tolist() == (2 * host).tolist()
        with pytest.raises(errors.DeviceNotSupportedError) as caught:
            ops.mul(a, a)
        assert "cpu" in str(caught.value), "the message says who has the operator"
        with pytest.raises(errors.BadParamError) as mixed:
            ops.add(a, host)
        assert mixed.value.argument == "b" and "abacus" in mixed.value.expected
        with pytest.raises(BufferError):
            a.__dlpack__()
    del a, made
    assert Counting.freed >= 2


def test_a_kernel_that_is_named_is_imported_with_its_first_descriptor(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "late_kernels.py").write_text("def add(c, a, b):\n    c[...] = a + b + 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    register("late", kernels={"add": "late_kernels:add", "sub": "late_kernels:sub", "mul": "no_such_module:mul"})
    assert "late_kernels" not in sys.modules
    one = np.ones(2, np.float32)
    assert ops.add(one, one, backend="late").tolist() == [3, 3] and "late_kernels" in sys.modules
    with pytest.raises(errors.InternalError, match=r"AttributeError: .*late_kernels"):
        ops.sub(one, one, backend="late")
    with pytest.raises(errors.InternalError, match="ModuleNotFoundError: No module named 'no_such_module'"):
        ops.mul(one, one, backend="late")
    with pytest.raises(TypeError, match="add: expected a function or 'module:function', got 'late_kernels'"):
        register("nameless", kernels={"add": "late_kernels"})


def test_names_are_unique_and_operators_known() -> None:
    register("single", kernels={"add": add_kernel})
    with pytest.raises(errors.InfiniopError, match="already"):
        register("single", kernels={"add": add_kernel})
    with pytest.raises(ValueError, match="unknown operators: fly"):
        register("winged", kernels={"fly": add_kernel})
    with pytest.raises(errors.InfiniopError):
        register("Not A Name", kernels={})


_THREAD = r"""
#include <pthread.h>
#include <stddef.h>
typedef int (*call_t)(void *, void *, size_t, void *, const void *, const void *, void *);
struct work { call_t call; void *desc; float *c; const float *a, *b; int status; };
static void *run(void *p) {
    struct work *w = p;
    w->status = w->call(w->desc, NULL, 0, w->c, w->a, w->b, NULL);
    return NULL;
}
int call_on_another_thread(void *call, void *desc, float *c, const float *a, const float *b) {
    struct work w = {(call_t)call, desc, c, a, b, -1};
    pthread_t thread;
    if (pthread_create(&thread, NULL, run, &w) != 0) return -2;
    pthread_join(thread, NULL);
    return w.status;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_python_kernel_is_called_from_a_foreign_thread(tmp_path: Path) -> None:
    import cffi

    (tmp_path / "thread.c").write_text(_THREAD)
    library = tmp_path / "thread.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-pthread", "-o", library, tmp_path / "thread.c"], check=True)
    foreign = cffi.FFI()
    foreign.cdef("int call_on_another_thread(void *, void *, float *, const float *, const float *);")
    threads = foreign.dlopen(str(library))
    register("anywhere", kernels={"add": add_kernel})
    a = np.arange(5, dtype=np.float32)
    c = np.zeros_like(a)
    with infiniop.descriptor("add", c=c, a=a, b=a, backend="anywhere") as d:
        function = ffi.addressof(lib, "infiniopAdd") if is_extension() else lib.infiniopAdd
        pointers = [int(ffi.cast("uintptr_t", p)) for p in (function, d._descriptor)]
        status = threads.call_on_another_thread(
            *(foreign.cast("void *", p) for p in pointers), *(foreign.from_buffer("float[]", x) for x in (c, a, a))
        )
    assert status == 0 and np.array_equal(c, 2 * a)


_PLUGINS = {
    "works": """
from infiniop import PythonBackend
def infiniop_register_backends():
    return [PythonBackend("works", explicit_only=True, kernels={"add": lambda c, a, b: c.fill(42)})]
""",
    "broken": "raise RuntimeError('no luck today')\n",
    "silent": "def infiniop_register_backends():\n    raise ValueError('nothing to say')\n",
    "strange": "def infiniop_register_backends():\n    return [3]\n",
    "missing": "from infiniop import NativeBackend\ndef infiniop_register_backends():\n"
    "    return [NativeBackend('/nowhere/libacme.so')]\n",
    "leaving": "import sys\nsys.exit(3)\n",
    "hookless": "x = 1\n",
    "nothing": "def infiniop_register_backends():\n    return None\n",
    "speechless": "class Odd(Exception):\n    def __str__(self):\n        raise ValueError\nraise Odd\n",
    "unparsable": "def (:\n",
    "twin": "from infiniop import PythonBackend\ndef infiniop_register_backends():\n"
    "    return [PythonBackend('cpu', kernels={})]\n",
    "winged": "from infiniop import PythonBackend\ndef infiniop_register_backends():\n"
    "    return [PythonBackend('wings', kernels={'fly': print})]\n",
    "loud": "import os\nprint('printed by Python')\nos.write(1, b'written by C')\n"
    "def infiniop_register_backends():\n    return []\n",
    "slow": "import time\nfrom infiniop import plugins\ntime.sleep(3 * plugins.PATIENCE)\n"
    "def infiniop_register_backends():\n    return []\n",
}


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which these plugins are installed."""
    for name, text in _PLUGINS.items():
        (tmp_path / f"plugin_{name}.py").write_text(text)
    info = tmp_path / "plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugins\nVersion: 1.0\n")
    points = "".join(f"{name} = plugin_{name}\n" for name in _PLUGINS)
    (info / "entry_points.txt").write_text(f"[infiniop.backends]\n{points}")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def test_entry_points_are_found_and_their_failures_shown(installed: dict[str, str]) -> None:
    script = (
        "import json, numpy as np, infiniop\nfrom infiniop import ops, plugins\nplugins.PATIENCE = 0.1\n"
        "a = np.ones(2, np.float32)\n"
        "assert ops.add(a, a).tolist() == [2, 2]\n"
        "assert ops.add(a, a, backend='works').tolist() == [42, 42]\n"
        "print('\\n' + json.dumps([(b.name, b.error) for b in infiniop.backends()]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listing = json.loads(done.stdout.splitlines()[-1])
    rows = dict(listing)
    assert rows["works"] == "" and rows["reference"] == "" and ["cpu", ""] in listing
    assert "no luck today" in rows["broken"] and "nothing to say" in rows["silent"]
    assert "3" in rows["strange"] and "SystemExit" in rows["leaving"]
    assert sum("libacme" in error for _, error in listing) == 1
    assert "it has no infiniop_register_backends()" in rows["hookless"] and "returned None" in rows["nothing"]
    assert rows["speechless"] == "Odd" and "SyntaxError" in rows["unparsable"]
    assert any(name == "cpu" and "already there" in error for name, error in listing)
    assert "unknown operators: fly" in rows["wings"]
    assert "still waiting for plugin slow (entry point plugin_slow) to load" in done.stderr


def test_the_command_line_shows_them(installed: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "plugin_slow.py").unlink()
    done = subprocess.run([sys.executable, "-m", "infiniop", "backends"], env=installed, capture_output=True, text=True)
    assert done.returncode == 0 and "no luck today" in done.stdout and "works" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "infiniop", "backends", "--json"], env=installed, capture_output=True, text=True
    )
    assert {row["name"] for row in json.loads(done.stdout)} > {"works", "broken", "slow"}
    assert "printed by Python" in done.stderr and "written by C" in done.stderr


def test_other_threads_wait_for_discovery(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time, infiniop\n"
        "def infiniop_register_backends():\n"
        "    time.sleep(1)\n"
        "    return [infiniop.PythonBackend('slow', device='pond', runtime=infiniop.PythonRuntime(), kernels={})]\n"
    )
    code = (
        "import threading, time, infiniop\n"
        "from infiniop import plugins\n"
        "load = lambda: __import__('slow')\n"
        "plugins._installed = lambda: [('slow', load, 'here')]\n"
        "first = threading.Thread(target=plugins.discover)\n"
        "first.start()\n"
        "time.sleep(0.3)\n"
        "print(infiniop.Device('pond'))\n"
        "first.join()\n"
    )
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "pond:0", ran.stderr
