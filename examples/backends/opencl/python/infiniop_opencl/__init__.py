"""The infiniop backend opencl: where its library lies. The entry point in pyproject.toml names this module."""

from __future__ import annotations

from pathlib import Path

from infiniop import NativeBackend

# In an editable install the library lies in another folder than this file.
library = next(path for folder in __path__ if (path := Path(folder) / "libinfiniop_opencl.so").exists())


def infiniop_register_backends() -> list[NativeBackend]:
    return [NativeBackend(library)]
