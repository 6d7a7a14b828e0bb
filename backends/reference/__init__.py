"""The reference backend: every operator by the reference in its file. Complete, slow, never chosen unless named."""

from __future__ import annotations

from infiniop.operators import all_operators
from infiniop.python_backend import PythonBackend


def infiniop_register_backends() -> list[PythonBackend]:
    from infiniop.ops import PYTHON_BACKENDS, SCHEMA_VERSIONS

    import infiniop

    kernels = {name: operator.reference for name, operator in all_operators().items() if name in SCHEMA_VERSIONS}
    return [
        PythonBackend(
            "reference",
            device="cpu",
            kernels=kernels,
            priority=int(PYTHON_BACKENDS["reference"]["priority"]),  # type: ignore[call-overload]
            explicit_only=True,
            version=infiniop.__version__,
        )
    ]
