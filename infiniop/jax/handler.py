"""Compiles the handler, once per version of jaxlib, infiniop and compiler flags, and shows it to XLA."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import jax
import jaxlib

import infiniop
from infiniop import _call
from infiniop.device import Device
from infiniop.gen.jax import table
from infiniop.operators import all_operators

TARGET = "infiniop"
_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared")


@functools.cache
def register() -> str:
    """The name under which XLA calls the handler."""
    _call.handle_for(Device("cpu"), None)  # loads the backends
    library = ctypes.CDLL(str(build(cache_folder())))
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.infiniop_jax), platform="cpu")
    return TARGET


def cache_folder() -> Path:
    """`infiniop/jax` in the user's cache: `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infiniop" / "jax"


def build(folder: Path) -> Path:
    """The compiled handler below `folder`; processes that come at the same time each compile, and one wins."""
    source = table(all_operators().values())
    includes = [Path(__file__).parent, infiniop.root() / "include", jax.ffi.include_dir()]
    lib = infiniop.root() / "lib"
    options = [*_FLAGS, *(f"-I{i}" for i in includes), f"-L{lib}", f"-Wl,-rpath,{lib}"]
    built = folder / f"{_key(source, options)}.so"
    if not built.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            text, made = Path(scratch, "operators.cc"), Path(scratch, "handler.so")
            text.write_text(source, encoding="utf-8")
            _compile([*options, str(text), "-linfiniop", "-linfinirt", "-o", str(made)])
            os.replace(made, built)
    return built


def _key(source: str, options: list[str]) -> str:
    """Of everything that the handler is made of."""
    parts = [source, Path(__file__).with_name("handler.hpp").read_text(encoding="utf-8"), jaxlib.__version__,
             infiniop.__version__, *options]  # fmt: skip
    headers = infiniop.root() / "include"
    parts += [path.read_text(encoding="utf-8") for path in sorted(headers.rglob("*.h*"))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _compile(arguments: list[str]) -> None:
    command = [*compiler(), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"infiniop.jax: the handler does not compile: {shlex.join(command)}\n{result.stderr}")


def compiler() -> list[str]:
    """`$CXX`, else the system's C++ compiler."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        command = shlex.split(name)
        if shutil.which(command[0]):
            return command
    raise RuntimeError(
        f"infiniop.jax needs a C++17 compiler for its handler, and there is no {' or '.join(names)}: "
        "apt-get install g++, or set CXX"
    )
