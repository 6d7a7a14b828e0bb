"""A backend of infiniop in Python over torch: every operator, on the CPU and on the accelerator that torch has."""

from __future__ import annotations

from importlib.metadata import version

from .backend import TorchBackend


def infiniop_register_backends() -> list[TorchBackend]:
    """`torch` on the CPU, chosen where it is named; on an accelerator, whatever nobody else has there."""
    backends = [TorchBackend("torch", explicit_only=True)]
    if not version("torch").endswith("+cpu"):  # only torch can tell whether there is one
        backends += _accelerators()
    return backends


def _accelerators() -> list[TorchBackend]:
    import torch

    from .runtime import TorchRuntime

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None or found.type == "mps":  # whose memory has no addresses to add to
        return []
    return [TorchBackend("torch-accelerator", TorchRuntime(found.type), priority=-100)]
