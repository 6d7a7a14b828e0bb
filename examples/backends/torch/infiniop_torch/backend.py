"""What stands between infiniop and the kernels. torch is imported with the first call, not with this module."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from infiniop import Device, PythonBackend
from infiniop.tensor import Signature

if TYPE_CHECKING:
    from .runtime import TorchRuntime

FAMILIES = {
    "attention": ("attention", "flash_attention", "paged_attention", "paged_attention_prefill"),
    "caching": ("rearrange", "paged_caching", "kv_caching", "embedding", "select_last_token_hidden"),
    "elementwise": ("add", "sub", "mul", "silu", "gelu", "sigmoid", "relu", "swiglu", "silu_and_mul", "rope"),
    "norms": ("rms_norm", "add_rms_norm", "layer_norm"),
    "products": ("gemm", "linear"),
    "quantised": ("linear_pack", "linear_packed_size"),
    "selection": ("topk", "random_sample", "random_sample_batch", "sample"),
    "softmax": ("softmax", "log_softmax", "causal_softmax"),
}
"""Modules of this package, and the operators that each has a function for."""
NAMES = {"cuda": "nvidia", "npu": "ascend", "mlu": "cambricon", "musa": "moore"}
"""What infiniop calls the devices of torch; others have one name."""


class TorchBackend(PythonBackend):
    """The kernels on one kind of device: the CPU, whose memory the core has, or that of a `TorchRuntime`."""

    def __init__(self, name: str, runtime: TorchRuntime | None = None, device: str = "", **options: Any):
        kind = "cpu" if runtime is None else runtime.kind
        kernels = {op: f"{__package__}.{family}:{op}" for family, ops in FAMILIES.items() for op in ops}
        device = device or NAMES.get(kind, kind)
        super().__init__(name, device=device, kernels=kernels, runtime=runtime, version=version("torch"), **options)
        self.kind, self.memory = kind, runtime

    def array(self, address: int, signature: Signature) -> Any:
        """A strided tensor over the memory."""
        from .tensors import view

        return view(self.kind, self.memory, address, signature)

    def run(self, kernel: Callable[..., None], arguments: dict[str, Any], device: Device, stream: int) -> None:
        """The kernel in the order of the stream."""
        import torch

        from .tensors import Mirrored

        mirrored = {name: value for name, value in arguments.items() if isinstance(value, Mirrored)}
        with torch.inference_mode() if self.memory is None else self.memory.on(device.index, stream):
            if self.memory is not None and self.memory.is_capturing():
                raise NotImplementedError("torch's temporaries have no place in a graph that the device itself records")
            kernel(**arguments | {name: value.forwards() for name, value in mirrored.items()})
            for value in mirrored.values():
                value.write_back()
