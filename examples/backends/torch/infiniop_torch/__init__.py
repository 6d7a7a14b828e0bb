"""A backend of infiniop in Python over torch: every operator, on the CPU and on the accelerator that torch has."""

from __future__ import annotations

import torch

from .backend import TorchBackend
from .runtime import TorchRuntime


def infiniop_register_backends() -> list[TorchBackend]:
    """`torch` on the CPU, chosen where it is named; on an accelerator, whatever nobody else has there."""
    backends = [TorchBackend("torch", explicit_only=True)]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None and accelerator.type != "mps":  # whose memory has no addresses to add to
        backends.append(TorchBackend("torch-accelerator", TorchRuntime(accelerator.type), priority=-100))
    return backends
