"""One benchmark case per operator: arguments at a model's shape, the same in torch, bytes and operations.

A case is a function decorated with `case`; it gets the model, the phase and the dtype, and returns a `Case` (or None
when the operator has no such shape). `infiniop bench ops` runs all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import infiniop
from infiniop import ops
from infiniop.schema import DType

from .shapes import Model, Phase

BLOCK = 16


@dataclass(frozen=True)
class Case:
    """`run` calls one of `infiniop.ops`, `peer(torch)` returns the same computation as a torch callable."""

    run: partial[object]
    peer: Callable[[Any], Callable[[], object]]
    bytes: int
    flops: int = 0


Builder = Callable[[Model, Phase, DType], "Case | None"]
CASES: dict[str, Builder] = {}


def case(name: str) -> Callable[[Builder], Builder]:
    def register(build: Builder) -> Builder:
        CASES[name] = build
        return build

    return register


def _random(shape: tuple[int, ...], dtype: DType) -> infiniop.Tensor:
    """Values that repeat every 64 Ki elements: drawing gigabytes of random numbers takes longer than the benchmark."""
    assert dtype.numpy is not None
    period = np.random.default_rng(0).uniform(-1, 1, 1 << 16).astype(np.float32).astype(dtype.numpy)
    return infiniop.from_numpy(np.resize(period, shape))


def _int(values: object, dtype: type = np.int64) -> infiniop.Tensor:
    return infiniop.from_numpy(np.ascontiguousarray(values, dtype))


def _torch(torch: Any, *tensors: infiniop.Tensor) -> list[Any]:
    return [torch.from_dlpack(t) for t in tensors]


def _bytes(*tensors: infiniop.Tensor) -> int:
    return sum(t.nbytes for t in tensors)


def _elementwise(name: str, inputs: int, peer: str, width: str = "intermediate") -> None:
    @case(name)
    def build(model: Model, phase: Phase, dtype: DType) -> Case:
        shape = (phase.tokens, getattr(model, width))
        arguments = [_random(shape, dtype) for _ in range(inputs)]
        out = _random(shape, dtype)
        call = getattr(ops, name)

        def torch_call(torch: Any) -> Callable[[], object]:
            function = eval(peer, {"torch": torch, "nn": torch._C._nn})
            *tensors, result = _torch(torch, *arguments, out)
            return lambda: function(*tensors, out=result)

        return Case(partial(call, *arguments, out=out), torch_call, _bytes(*arguments, out))


_elementwise("add", 2, "torch.add", "hidden")
_elementwise("sub", 2, "torch.sub", "hidden")
_elementwise("mul", 2, "torch.mul", "hidden")
_elementwise("silu", 1, "nn.silu")
_elementwise("gelu", 1, "nn.gelu")
_elementwise("sigmoid", 1, "torch.sigmoid")
_elementwise("relu", 1, "lambda a, out: torch.clamp_min(a, 0, out=out)")
_elementwise("swiglu", 2, "lambda a, b, out: torch.mul(a, nn.silu(b, out=out), out=out)")


@case("silu_and_mul")
def _silu_and_mul(model: Model, phase: Phase, dtype: DType) -> Case:
    x = _random((phase.tokens, 2 * model.intermediate), dtype)
    out = _random((phase.tokens, model.intermediate), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        t, result = _torch(torch, x, out)
        n, silu = model.intermediate, torch._C._nn.silu
        return lambda: torch.mul(silu(t[:, :n], out=result), t[:, n:], out=result)

    return Case(partial(ops.silu_and_mul, x, out=out), peer, _bytes(x, out))


@case("rms_norm")
def _rms_norm(model: Model, phase: Phase, dtype: DType) -> Case:
    x, w = _random((phase.tokens, model.hidden), dtype), _random((model.hidden,), dtype)
    out = _random((phase.tokens, model.hidden), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        tx, tw = _torch(torch, x, w)
        return lambda: torch.nn.functional.rms_norm(tx, (model.hidden,), tw, 1e-6)

    return Case(partial(ops.rms_norm, x, w, epsilon=1e-6, out=out), peer, _bytes(x, w, out))


@case("add_rms_norm")
def _add_rms_norm(model: Model, phase: Phase, dtype: DType) -> Case:
    shape = (phase.tokens, model.hidden)
    a, b, w = _random(shape, dtype), _random(shape, dtype), _random((model.hidden,), dtype)
    out = (_random(shape, dtype), _random(shape, dtype))

    def peer(torch: Any) -> Callable[[], object]:
        ta, tb, tw, residual = _torch(torch, a, b, w, out[1])

        def call() -> object:
            torch.add(ta, tb, out=residual)
            return torch.nn.functional.rms_norm(residual, (model.hidden,), tw, 1e-6), residual

        return call

    return Case(partial(ops.add_rms_norm, a, b, w, epsilon=1e-6, out=out), peer, _bytes(a, b, w, *out))


@case("layer_norm")
def _layer_norm(model: Model, phase: Phase, dtype: DType) -> Case:
    shape = (phase.tokens, model.hidden)
    x, w, b = _random(shape, dtype), _random((model.hidden,), dtype), _random((model.hidden,), dtype)
    out = (_random(shape, dtype), _random(shape, dtype), _random(shape[:1], dtype))

    def peer(torch: Any) -> Callable[[], object]:
        tx, tw, tb, result = _torch(torch, x, w, b, out[0])

        def call() -> object:
            standard, _, inverse = torch.native_layer_norm(tx, (model.hidden,), None, None, 1e-5)
            return torch.addcmul(tb, standard, tw, out=result), standard, inverse.reciprocal()

        return call

    return Case(partial(ops.layer_norm, x, w, b, eps=1e-5, out=out), peer, _bytes(x, w, b, *out))


@case("rope")
def _rope(model: Model, phase: Phase, dtype: DType) -> Case:
    shape = (phase.tokens, model.heads, model.head_dim)
    x, out, positions = _random(shape, dtype), _random(shape, dtype), _int(np.arange(phase.tokens))
    sin, cos = (_random((1024, model.head_dim // 2), dtype) for _ in range(2))

    def peer(torch: Any) -> Callable[[], object]:
        tx, tp, ts, tc = _torch(torch, x, positions, sin, cos)

        def call() -> object:
            s, c = ts[tp][:, None], tc[tp][:, None]
            low, high = tx.chunk(2, -1)
            return torch.cat((low * c - high * s, low * s + high * c), -1)

        return call

    return Case(partial(ops.rope, x, positions, sin, cos, algo=1, out=out), peer, _bytes(x, out))


def _softmax(name: str, peer_call: str, shape_of: Callable[[Model, Phase], tuple[int, ...]], **attrs: int) -> None:
    @case(name)
    def build(model: Model, phase: Phase, dtype: DType) -> Case:
        x = _random(shape_of(model, phase), dtype)
        out = _random(shape_of(model, phase), dtype)
        call = getattr(ops, name)

        def peer(torch: Any) -> Callable[[], object]:
            t, result = _torch(torch, x, out)
            mask = None
            if name == "causal_softmax":
                s, n = t.shape[-2:]
                mask = torch.ones(s, n).tril(n - s).logical_not()
            return eval(f"lambda: {peer_call}", {"torch": torch, "t": t, "mask": mask, "out": result})

        return Case(partial(call, x, out=out, **attrs), peer, _bytes(x, out))


_softmax("softmax", "torch.softmax(t, -1, out=out)", lambda m, p: (p.tokens, 8 * 1024), axis=-1)
_softmax("log_softmax", "torch.log_softmax(t, -1, out=out)", lambda m, p: (p.tokens, 8 * 1024), dim=-1)
_softmax("causal_softmax", "torch.softmax(t.masked_fill(mask, -torch.inf), -1, out=out)",
         lambda m, p: (m.heads, p.tokens, p.context))  # fmt: skip


@case("gemm")
def _gemm(model: Model, phase: Phase, dtype: DType) -> Case:
    a, b = _random((phase.tokens, model.hidden), dtype), _random((model.hidden, model.hidden), dtype)
    out = _random((phase.tokens, model.hidden), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        ta, tb, result = _torch(torch, a, b, out)
        return lambda: torch.mm(ta, tb, out=result)

    return Case(partial(ops.gemm, a, b, out=out), peer, _bytes(a, b, out), 2 * phase.tokens * model.hidden**2)


@case("linear")
def _linear(model: Model, phase: Phase, dtype: DType) -> Case:
    x, w = _random((phase.tokens, model.hidden), dtype), _random((model.intermediate, model.hidden), dtype)
    out = _random((phase.tokens, model.intermediate), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        tx, tw = _torch(torch, x, w)
        return lambda: torch.nn.functional.linear(tx, tw)

    flops = 2 * phase.tokens * model.hidden * model.intermediate
    return Case(partial(ops.linear, x, w, out=out), peer, _bytes(x, w, out), flops)


@case("embedding")
def _embedding(model: Model, phase: Phase, dtype: DType) -> Case:
    weight = _random((32768, model.hidden), dtype)
    ids = _int(np.random.default_rng(1).integers(0, 32768, phase.tokens))
    out = _random((phase.tokens, model.hidden), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        ti, tw, result = _torch(torch, ids, weight, out)
        return lambda: torch.index_select(tw, 0, ti, out=result)

    return Case(partial(ops.embedding, ids, weight, out=out), peer, 2 * _bytes(out))


@case("rearrange")
def _rearrange(model: Model, phase: Phase, dtype: DType) -> Case:
    x = _random((phase.tokens, model.heads, model.head_dim), dtype)
    view, out = x.permute(1, 0, 2), _random((model.heads, phase.tokens, model.head_dim), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        t, result = _torch(torch, x, out)
        return lambda: result.copy_(t.permute(1, 0, 2))

    return Case(partial(ops.rearrange, view, out=out), peer, _bytes(x, out))


@case("select_last_token_hidden")
def _select_last(model: Model, phase: Phase, dtype: DType) -> Case:
    hidden = _random((1, 8 * phase.tokens, model.hidden), dtype)
    offsets = _int(np.arange(9) * phase.tokens, np.int32)
    out = _random((1, 8, model.hidden), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        th, to = _torch(torch, hidden, offsets)
        return lambda: th[:, (to[1:] - 1).long()]

    return Case(partial(ops.select_last_token_hidden, hidden, offsets, out=out), peer, 2 * _bytes(out))


@case("topk")
def _topk(model: Model, phase: Phase, dtype: DType) -> Case:
    rows = min(phase.tokens, 32)
    x, values, indices = _random((rows, 32768), dtype), _random((rows, 50), dtype), _int(np.zeros((rows, 50)))

    def peer(torch: Any) -> Callable[[], object]:
        t, *result = _torch(torch, x, values, indices)
        return lambda: torch.topk(t, 50, out=result)

    return Case(partial(ops.topk, x, k=50, dim=1, out=(values, indices)), peer, _bytes(x))


@case("random_sample")
def _random_sample(model: Model, phase: Phase, dtype: DType) -> Case | None:
    if phase.tokens != 1:
        return None
    probs = _random((model.vocab,), dtype)

    run = partial(ops.random_sample, probs, random_val=0.5, topp=0.9, topk=50, temperature=0.8)

    return Case(run, lambda torch: _sorted_sampling(torch, probs), _bytes(probs))


@case("random_sample_batch")
def _random_sample_batch(model: Model, phase: Phase, dtype: DType) -> Case:
    rows = min(phase.tokens, 16)
    probs = _random((rows, model.vocab), dtype)
    draws = {"random_val": [0.5] * rows, "topp": [0.9] * rows, "topk": [50] * rows, "temperature": [0.8] * rows}

    run = partial(ops.random_sample_batch, probs, **draws, batch_size=rows)

    return Case(run, lambda torch: _sorted_sampling(torch, probs), _bytes(probs))


@case("sample")
def _sample(model: Model, phase: Phase, dtype: DType) -> Case:
    rows = min(phase.tokens, 16)
    logits = _random((rows, model.vocab), dtype)
    per_row = [
        np.full(rows, v, t) for v, t in ((0.8, "f4"), (50, "i4"), (0.9, "f4"), (0.0, "f4"), (1, "i8"), (7, "i8"))
    ]
    parameters = [infiniop.from_numpy(p) for p in per_row]
    return Case(partial(ops.sample, logits, *parameters), lambda torch: _sorted_sampling(torch, logits), _bytes(logits))


def _sorted_sampling(torch: Any, logits: infiniop.Tensor) -> Callable[[], object]:
    """Temperature, top-k and top-p by sorting, as torch users write it."""
    (t,) = _torch(torch, logits)

    def call() -> object:
        values, order = torch.sort(t.float() / 0.8, descending=True)
        p = torch.softmax(values, -1)
        keep = (p.cumsum(-1) - p < 0.9) & (torch.arange(p.shape[-1]) < 50)
        return order.gather(-1, torch.multinomial(p * keep, 1))

    return call


@case("attention")
def _attention(model: Model, phase: Phase, dtype: DType) -> Case:
    n, past, d = phase.tokens, phase.context - phase.tokens, model.head_dim
    q, k, v = (_random((heads, n, d), dtype) for heads in (model.heads, model.kv_heads, model.kv_heads))
    k_cache, v_cache = (_random((model.kv_heads, phase.context, d), dtype) for _ in range(2))
    out = _random((n, model.heads, d), dtype)

    def peer(torch: Any) -> Callable[[], object]:
        tq, tk, tv, kc, vc = _torch(torch, q, k, v, k_cache, v_cache)
        attend = torch.nn.functional.scaled_dot_product_attention

        def call() -> object:
            kc[:, past:] = tk
            vc[:, past:] = tv
            attended = attend(tq[None], kc[None], vc[None], is_causal=n > 1, enable_gqa=True)
            return attended[0].transpose(0, 1).contiguous()

        return call

    run = partial(ops.attention, q, k, v, k_cache, v_cache, pos=past, out=out)

    pairs = n * past + n * (n + 1) // 2
    return Case(run, peer, _bytes(q, k_cache, v_cache, out), 4 * pairs * model.heads * d)


@case("linear_pack")
def _linear_pack(model: Model, phase: Phase, dtype: DType) -> Case | None:
    if phase.tokens != 1:
        return None
    weight = _random((model.hidden, model.hidden), dtype)
    packed = infiniop.empty((ops.linear_packed_size(weight).item(),), infiniop.uint8)

    def peer(torch: Any) -> Callable[[], object]:
        (t,) = _torch(torch, weight)
        return lambda: t.t().contiguous()

    return Case(partial(ops.linear_pack, weight, out=packed), peer, _bytes(weight, packed))


def _cache(model: Model, context: int, dtype: DType, sequences: int) -> tuple[infiniop.Tensor, ...]:
    blocks = math.ceil(context / BLOCK)
    shape = (blocks * sequences, model.kv_heads, BLOCK, model.head_dim)
    order = np.random.default_rng(2).permutation(blocks * sequences).reshape(sequences, blocks)
    return _random(shape, dtype), _random(shape, dtype), _int(order)


def _dense(torch: Any, cache: Any, table: Any, context: int) -> Any:
    """[sequences, kv heads, context, head size], gathered once: the peer reads contiguous memory."""
    gathered = cache[table].permute(0, 2, 1, 3, 4)
    return gathered.reshape(*gathered.shape[:2], -1, gathered.shape[-1])[:, :, :context].contiguous()


@case("paged_caching")
def _paged_caching(model: Model, phase: Phase, dtype: DType) -> Case:
    k_cache, v_cache, _ = _cache(model, 2048, dtype, 1)
    shape = (phase.tokens, model.kv_heads, model.head_dim)
    k, v = _random(shape, dtype), _random(shape, dtype)
    slots = np.random.default_rng(3).permutation(2048)[: phase.tokens]
    mapping = _int(slots)

    def peer(torch: Any) -> Callable[[], object]:
        tk, tv, kc, vc, ts = _torch(torch, k, v, k_cache, v_cache, mapping)

        def call() -> None:
            kc[ts // BLOCK, :, ts % BLOCK] = tk
            vc[ts // BLOCK, :, ts % BLOCK] = tv

        return call

    return Case(partial(ops.paged_caching, k_cache, v_cache, k, v, mapping), peer, 2 * _bytes(k, v))


@case("kv_caching")
def _kv_caching(model: Model, phase: Phase, dtype: DType) -> Case:
    k_cache, v_cache = (_random((1, model.kv_heads, 2048, model.head_dim), dtype) for _ in range(2))
    k, v = (_random((1, model.kv_heads, phase.tokens, model.head_dim), dtype) for _ in range(2))
    past = _int([1024])

    def peer(torch: Any) -> Callable[[], object]:
        tk, tv, kc, vc = _torch(torch, k, v, k_cache, v_cache)

        def call() -> None:
            kc[:, :, 1024 : 1024 + phase.tokens] = tk
            vc[:, :, 1024 : 1024 + phase.tokens] = tv

        return call

    return Case(partial(ops.kv_caching, k_cache, v_cache, k, v, past), peer, 2 * _bytes(k, v))


@case("paged_attention")
def _paged_attention(model: Model, phase: Phase, dtype: DType) -> Case | None:
    if phase.tokens != 1:
        return None
    k_cache, v_cache, table = _cache(model, phase.context, dtype, 4)
    q, out = (_random((4, model.heads, model.head_dim), dtype) for _ in range(2))
    lengths, scale = _int([phase.context] * 4), model.head_dim**-0.5

    def peer(torch: Any) -> Callable[[], object]:
        tq, kc, vc, tt = _torch(torch, q, k_cache, v_cache, table)
        tk, tv = (_dense(torch, c, tt, phase.context) for c in (kc, vc))
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(tq[:, :, None], tk, tv, scale=scale, enable_gqa=True)

    run = partial(ops.paged_attention, q, k_cache, v_cache, table, lengths, scale=scale, out=out)

    return Case(run, peer, _bytes(q, out, k_cache, v_cache))


@case("paged_attention_prefill")
def _paged_attention_prefill(model: Model, phase: Phase, dtype: DType) -> Case | None:
    if phase.tokens == 1:
        return None
    n, scale = phase.tokens, model.head_dim**-0.5
    k_cache, v_cache, table = _cache(model, n, dtype, 1)
    q, out = (_random((n, model.heads, model.head_dim), dtype) for _ in range(2))
    lengths, offsets = _int([n]), _int([0, n])

    def peer(torch: Any) -> Callable[[], object]:
        tq, kc, vc, tt = _torch(torch, q, k_cache, v_cache, table)
        tk, tv = (_dense(torch, c, tt, n) for c in (kc, vc))
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(tq.transpose(0, 1)[None], tk, tv, is_causal=True, scale=scale, enable_gqa=True)

    run = partial(ops.paged_attention_prefill, q, k_cache, v_cache, table, lengths, offsets, scale=scale, out=out)

    return Case(run, peer, _bytes(q, out, k_cache, v_cache), 2 * n * n * model.heads * model.head_dim)


@case("flash_attention")
def _flash_attention(model: Model, phase: Phase, dtype: DType) -> Case:
    n, t, scale = phase.tokens, phase.context, model.head_dim**-0.5
    q, out = (_random((1, model.heads, n, model.head_dim), dtype) for _ in range(2))
    k, v = (_random((1, model.kv_heads, t, model.head_dim), dtype) for _ in range(2))
    lengths = _int([t])

    def peer(torch: Any) -> Callable[[], object]:
        tq, tk, tv = _torch(torch, q, k, v)
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(tq, tk, tv, is_causal=n > 1, scale=scale, enable_gqa=True)

    run = partial(ops.flash_attention, q, k, v, lengths, scale=scale, is_causal=1, out=out)

    pairs = n * t - n * (n - 1) // 2
    return Case(run, peer, _bytes(q, k, v, out), 4 * pairs * model.heads * model.head_dim)
