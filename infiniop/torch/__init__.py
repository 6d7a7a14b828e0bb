"""The operators as torch's own: `import infiniop.torch`, then `torch.ops.infiniop.rms_norm(x, w)`.

They work under `torch.compile(fullgraph=True)` and `torch.export`. Nothing here links libtorch.
"""

from __future__ import annotations

from typing import Any

from . import library

library.register()

from . import functional, nn  # noqa: E402 - they use what has just been registered

__all__ = ["accelerate", "functional", "nn", "restore"]


def accelerate(model: Any) -> Any:
    """Run a transformers Llama on infiniop's operators: norms, products, activation, rotary embedding, attention.

    The model itself is changed (and returned): its modules get other classes; parameters and names stay, nothing is
    copied. Call it under `torch.no_grad()` or `torch.inference_mode()` from then on (`generate` does that itself).
    """
    from . import llama

    return llama.accelerate(model)


def restore(model: Any) -> Any:
    """Undo `accelerate`."""
    from . import llama

    return llama.restore(model)
