"""Backends that other packages bring: entry points of the group `infiniop.backends`, through pluggy.

A plugin is a module, a class or a function whose `infiniop_register_backends()` returns `NativeBackend`s and
`PythonBackend`s. What fails to import, to answer or to register is noted, shown by `infiniop backends`, and harms
nothing else.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import threading
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from ._library import lib
from .errors import InfiniopError, check

if TYPE_CHECKING:
    from .python_backend import PythonBackend

ENTRY_POINTS = "infiniop.backends"
PATIENCE = 10.0  # seconds after which a plugin that still loads is named on stderr
HOOK = "infiniop_register_backends"

hookspec = pluggy.HookspecMarker("infiniop")
hookimpl = pluggy.HookimplMarker("infiniop")


class Backend(Protocol):
    """What a plugin returns."""

    name: str

    def register(self) -> None: ...


class NativeBackend:
    """A backend in a shared library that exports `infiniop_backend_init`."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    @property
    def name(self) -> str:
        return self.path.stem.removeprefix("lib")

    def register(self) -> None:
        check(lib.infiniopLoadBackend(os.fsencode(self.path)))


class _Specification:
    @hookspec
    def infiniop_register_backends(self) -> Iterable[NativeBackend | PythonBackend]:  # type: ignore[empty-body]
        """The backends that this plugin brings."""


class _Manager(pluggy.PluginManager):
    """A function with the hook's name is an implementation, marked or not."""

    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        marked = super().parse_hookimpl_opts(plugin, name)
        if marked is None and name == HOOK and callable(getattr(plugin, name, None)):
            return pluggy.HookimplOpts(  # the defaults of an unmarked implementation
                wrapper=False, hookwrapper=False, optionalhook=False, tryfirst=False, trylast=False, specname=None
            )
        return marked


manager = _Manager("infiniop")
manager.add_hookspecs(_Specification)

_lock = threading.RLock()
_begun = _done = False


def discover() -> None:
    """Register the backends of all plugins; once per process. Other threads wait meanwhile."""
    global _begun, _done
    if _done:
        return
    with _lock:
        if _begun:  # a plugin calls back into infiniop: it sees what is there so far
            return
        _begun = True
        try:
            for name, module, origin in [*_built_in(), *_installed()]:
                _load(name, module, origin)
            if os.environ.get("INFINIOP_VERIFY"):
                from . import verify

                verify.set_judge()
        finally:
            _done = True


def register(plugin: object, name: str | None = None) -> None:
    """Register the backends of a plugin object. Raises what the plugin raises."""
    manager.register(plugin, name)
    for backend in _ask(plugin):
        backend.register()


def _built_in() -> list[tuple[str, Any, str]]:
    """Python backends in this package, as `registry.yaml` lists them."""
    from .ops import PYTHON_BACKENDS  # type: ignore[attr-defined]  # generated at build

    def load(module: str) -> Any:
        return lambda: importlib.import_module(module)

    return [(name, load(str(row["module"])), str(row["module"])) for name, row in PYTHON_BACKENDS.items()]


def _installed() -> list[tuple[str, Any, str]]:
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return [(point.name, point.load, f"entry point {point.value}") for point in points]


def _load(name: str, load: Any, origin: str) -> None:
    with _named_when_slow(name, origin):
        try:
            plugin = load()
            if not manager.is_registered(plugin):
                manager.register(plugin, name)
            backends = _ask(plugin)
        except BaseException as error:
            note_failure(name, origin, error)
            return
        for backend in backends:
            try:
                backend.register()
            except BaseException as error:
                noted = isinstance(backend, NativeBackend) and isinstance(error, InfiniopError)  # by the core
                if not noted:
                    note_failure(getattr(backend, "name", name), origin, error)


@contextlib.contextmanager
def _named_when_slow(name: str, origin: str) -> Iterator[None]:
    """Python cannot interrupt a plugin that hangs; it can say which one it is."""
    text = f"infiniop: still waiting for plugin {name} ({origin}) to load\n"
    timer = threading.Timer(PATIENCE, lambda: os.write(2, text.encode("utf-8", "replace")))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _ask(plugin: object) -> list[Backend]:
    """One plugin's answer: the others must not suffer from its failure."""
    others = [other for other in manager.get_plugins() if other is not plugin]
    if not manager.get_hookcallers(plugin):
        raise TypeError(f"it has no {HOOK}()")
    answers = manager.subset_hook_caller(HOOK, others)()
    if not answers:
        raise TypeError(f"{HOOK}() returned None: expected NativeBackends and PythonBackends")
    backends = [backend for answer in answers for backend in ([answer] if hasattr(answer, "register") else answer)]
    for backend in backends:
        if not callable(getattr(backend, "register", None)):
            raise TypeError(f"{HOOK} returned {backend!r}: expected NativeBackend or PythonBackend")
    return backends


def note_failure(name: str, origin: str, error: BaseException) -> None:
    """Show the failure in listings."""
    if isinstance(error, KeyboardInterrupt):
        raise error
    if os.environ.get("INFINIOP_DEBUG") == "1":
        traceback.print_exception(error)
    try:
        message = f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ fails as well
        message = type(error).__name__
    texts = [str(text).encode("utf-8", "replace") for text in (name, origin, message)]
    lib.infiniopReportBackendError(*texts)
