"""Modules for inference on infiniop's operators. Constructors are torch's where torch has the module.

Parameters do not want gradients: the operators have no backward.
"""

from __future__ import annotations

from .attention import PagedAttention
from .basic import Linear, PackedLinear, RMSNorm, SwiGLU
from .rotary import RotaryEmbedding

__all__ = ["Linear", "PackedLinear", "PagedAttention", "RMSNorm", "RotaryEmbedding", "SwiGLU"]
