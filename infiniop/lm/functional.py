"""The forward pass's operations, each as the fused operator where the device has it, else composed from others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from infiniop import ops

from .operators import check_operators

if TYPE_CHECKING:
    from infiniop import Tensor

    from .batch import DeviceBatch
    from .buffers import Buffers


class Functional:
    """What a model calls. Every result goes into memory that the caller gives."""

    embedding = staticmethod(lambda ids, weight, out: ops.embedding(ids, weight, out=out))
    rms_norm = staticmethod(lambda x, weight, epsilon, out: ops.rms_norm(x, weight, epsilon=epsilon, out=out))

    def __init__(self, device: str, available: Iterable[str], buffers: Buffers, activation_bits: int = 16):
        """`activation_bits`: what x of a product with integers is rounded to.

        Raises `MissingOperatorsError` when the device cannot run the models here."""
        check_operators(device, available)
        have = frozenset(available)
        self._buffers = buffers
        self._has_paged_attention = "paged_attention" in have
        self._fused_select = "select_last_token_hidden" in have
        self._joined_gate = not ("swiglu" in have or have >= {"silu", "mul"})
        self._turned: dict[int, tuple[Tensor, Tensor]] = {}
        self._activation_bits = activation_bits
        self.linear = self._linear if "linear" in have else self._linear_by_gemm
        self.add_rms_norm = _add_rms_norm if "add_rms_norm" in have else _add_then_rms_norm
        self._gate = _swiglu if "swiglu" in have else _silu_then_mul

    def rope(self, x: Tensor, batch: DeviceBatch) -> Tensor:
        """Rotates `[ntok, heads, head_dim]` in place."""
        return ops.rope(x, batch.rope_rows, batch.sin, batch.cos, algo="GPT_NEOX", out=x)

    def cache_tokens(self, cache: tuple[Tensor, Tensor], k: Tensor, v: Tensor, batch: DeviceBatch) -> None:
        ops.paged_caching(cache[0], cache[1], k, v, batch.slots)

    def attention(
        self, q: Tensor, cache: tuple[Tensor, Tensor], batch: DeviceBatch, scale: float, out: Tensor
    ) -> Tensor:
        """Causal attention of each request over its own blocks; `[ntok, heads, head_dim]`."""
        k, v = cache
        if batch.is_decode and self._has_paged_attention:
            return ops.paged_attention(q, k, v, batch.block_tables, batch.kv_lengths, scale=scale, out=out)
        return ops.paged_attention_prefill(
            q, k, v, batch.block_tables, batch.kv_lengths, batch.offsets, scale=scale, out=out
        )

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
        return ops.linear(x, weight, bias, activation_bits=self._activation_bits, out=out)

    def _linear_by_gemm(self, x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
        known = self._turned.get(id(weight))
        if known is None or known[0] is not weight:
            known = self._turned[id(weight)] = weight, weight.transpose(0, 1)
        if bias is not None:
            ops.rearrange(bias.unsqueeze(0).expand(*out.shape), out=out)
        return ops.gemm(x, known[1], beta=0.0 if bias is None else 1.0, out=out)

    def gate_and_up(self, ntok: int, size: int, dtype, joined: bool) -> tuple[Tensor, Tensor]:
        """Where the MLP's gate and up projections go, each `[ntok, size]`; `joined`: side by side in the buffer
        `gate_up`."""
        if joined or self._joined_gate:
            both = self._buffers.get("gate_up", (ntok, 2 * size), dtype)
            return both[:, :size], both[:, size:]
        return self._buffers.get("gate", (ntok, size), dtype), self._buffers.get("up", (ntok, size), dtype)

    def swiglu(self, gate: Tensor, up: Tensor) -> Tensor:
        """silu(gate) · up of what `gate_and_up` gave; overwrites one of the two where it can."""
        if self._joined_gate:
            ntok, size = gate.shape
            both = self._buffers.get("gate_up", (ntok, 2 * size), gate.dtype)
            return ops.silu_and_mul(both, out=self._buffers.get("activation", (ntok, size), gate.dtype))
        return self._gate(gate, up)

    def last_tokens(self, hidden: Tensor, batch: DeviceBatch) -> Tensor:
        """The hidden state of each request's last token, `[nreq, hidden]`."""
        ntok, size = hidden.shape
        nreq = batch.size
        if nreq == ntok:
            return hidden
        if self._fused_select:
            out = self._buffers.get("last_hidden", (1, nreq, size), hidden.dtype)
            ops.select_last_token_hidden(hidden.reshape(1, ntok, size), batch.offsets, out=out)
            return out.reshape(nreq, size)
        out = self._buffers.get("last_hidden", (nreq, size), hidden.dtype)
        for row, end in enumerate(batch.host.offsets[1:].tolist()):
            ops.rearrange(hidden[end - 1], out=out[row])
        return out


def _add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> Tensor:
    ops.add_rms_norm(x, residual, weight, epsilon=epsilon, out=(out, residual))
    return out


def _add_then_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> Tensor:
    ops.add(x, residual, out=residual)
    return ops.rms_norm(residual, weight, epsilon=epsilon, out=out)


def _swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return ops.swiglu(up, gate, out=up)


def _silu_then_mul(gate: Tensor, up: Tensor) -> Tensor:
    return ops.mul(ops.silu(gate, out=gate), up, out=up)
