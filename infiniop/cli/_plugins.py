"""Loading of plugins with a clean stdout: what they print while they load goes to stderr."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniop.registry import BackendInfo


def all_backends() -> list[BackendInfo]:
    """`infiniop.backends()`; the first call loads every plugin."""
    from infiniop.registry import backends

    with _stdout_on_stderr():
        return backends()


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """For C and Python alike; also what C holds back in its buffers."""
    flush_c_streams = functools.partial(ctypes.CDLL(None).fflush, None)
    flush_c_streams()
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        flush_c_streams()
        os.dup2(kept, 1)
        os.close(kept)
