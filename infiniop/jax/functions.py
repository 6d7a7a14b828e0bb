"""From a call on JAX arrays to `jax.ffi.ffi_call`: everything follows from the operator's schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from infiniop import _call
from infiniop.device import Device
from infiniop.errors import BadParamError, NullPointerError, TensorDtypeError
from infiniop.gen.jax import parameters
from infiniop.gen.python import extra_keywords, identifier
from infiniop.inference import outputs
from infiniop.schema import Attr, Operator, Role, Tensor, expr, shapes
from infiniop.schema.dtypes import dtype
from infiniop.tensor import Signature, row_major

from .handler import register

_CPU = Device("cpu")
_WIDE = {np.dtype(np.int32): np.dtype(np.int64), np.dtype(np.uint32): np.dtype(np.uint64)}
_NARROW = {wide: narrow for narrow, wide in _WIDE.items()}


def function(name: str) -> Callable[..., Any]:
    """The operator as a function of JAX arrays."""
    operation = _call.operations[name]
    schema, signature = operation.schema, parameters(operation.schema)

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        attrs = [given[identifier(a.name)] for a in schema.attrs]
        extra = {name: given[name] for name in extra_keywords(schema)}
        wide = jax.config.read("jax_enable_x64")
        # Without x64 JAX has no int64, which some operators ask for: it exists around their call alone.
        with jax.enable_x64(True):
            arrays = {t.name: _array(schema, t, given.get(identifier(t.name)), wide) for t in schema.tensors}
            made = _ffi_call(operation, arrays, attrs, extra)
            if not wide:
                made = [array.astype(_NARROW.get(array.dtype, array.dtype)) for array in made]
        return made[0] if len(made) == 1 else tuple(made)

    call.__name__ = call.__qualname__ = name
    call.__module__ = "infiniop.jax"
    call.__doc__ = "\n".join([schema.summary, "", *schema.semantics])
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def _array(schema: Operator, tensor: Tensor, value: Any, wide: bool) -> jax.Array | None:
    """As the operator takes it; None where it is not given."""
    if value is None:
        if tensor.role is not Role.OUT and not tensor.optional:
            raise NullPointerError(op=schema.name, argument=tensor.name, expected="an array", got="None")
        return None
    try:
        array = jnp.asarray(value)
        kind = dtype(array.dtype)
    except TypeError as error:
        got = str(getattr(value, "dtype", type(value).__name__))
        message = f"{schema.name}: {tensor.name}: {error}"
        raise TensorDtypeError(message, op=schema.name, argument=tensor.name, got=got) from None
    allowed = schema.dtypes.get(tensor.dtype) or (dtype(tensor.dtype),)
    wider = _WIDE.get(array.dtype)
    if not wide and wider is not None and kind not in allowed and dtype(wider) in allowed:
        return array.astype(wider)
    return array


def _ffi_call(
    operation: _call.Operation, arrays: Mapping[str, jax.Array | None], attrs: Sequence[Any], extra: Mapping[str, Any]
) -> list[jax.Array]:
    """All outputs, in C order."""
    schema = operation.schema
    attributes = {a.name: _attribute(operation, i, a, attrs[i]) for i, a in enumerate(schema.attrs)}
    scalars = {name: value.item() for name, value in attributes.items() if value.ndim == 0}
    sigs = _signatures(operation, arrays, attrs, scalars, extra)
    given = [name for name, array in arrays.items() if array is not None]
    made = [t.name for t in schema.tensors if t.is_output]
    ours = {
        "operator": schema.name,
        "inputs": np.array([given.index(n) if n in given else -1 for n in arrays], np.int64),
        "outputs": np.array([made.index(n) if n in made else -1 for n in arrays], np.int64),
    }
    ffi_call = jax.ffi.ffi_call(
        register(),
        [jax.ShapeDtypeStruct(sigs[n].shape, _jax_dtype(schema, n, sigs[n])) for n in made],
        vmap_method="broadcast_all" if _is_pointwise(schema) else "sequential",
        input_output_aliases={given.index(n): made.index(n) for n in made if n in given},
    )

    @jax.custom_jvp
    def call(*inputs: jax.Array) -> list[jax.Array]:
        return list(ffi_call(*inputs, **ours, **attributes))

    def refuse(primals: Any, tangents: Any) -> NoReturn:
        argument = next((n for n, t in zip(given, tangents, strict=True) if not isinstance(t, SymbolicZero)), given[0])
        raise BadParamError(
            op=schema.name, argument=argument, expected="an array that nothing is differentiated by, or one through "
            "jax.lax.stop_gradient", got="one that wants a gradient: infiniop's operators have no backward",
        )  # fmt: skip

    call.defjvp(refuse, symbolic_zeros=True)
    return call(*(arrays[name] for name in given))


def _signatures(
    operation: _call.Operation,
    arrays: Mapping[str, jax.Array | None],
    attrs: Sequence[Any],
    scalars: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> dict[str, Signature]:
    """Of all tensors. What can be known to be wrong without values is refused here."""
    schema = operation.schema
    sigs = {
        name: None if a is None else Signature.of(a.shape, row_major(a.shape), dtype(a.dtype), _CPU)
        for name, a in arrays.items()
    }
    operation.check_arguments(list(sigs.values()))
    for tensor in schema.tensors:
        if tensor.read_when and sigs[tensor.name] is None and expr.evaluate(tensor.read_when, scalars, {}):
            raise BadParamError(op=schema.name, argument=tensor.name, expected="an array to read", got="None")
    sigs |= outputs(schema, sigs, scalars, extra)
    operation.describe(_CPU, list(sigs.values()), attrs, None)
    operation.run_values(attrs, operation.lengths(list(sigs.values()), attrs))
    return {name: sig for name, sig in sigs.items() if sig is not None}


def _attribute(operation: _call.Operation, index: int, attr: Attr, value: Any) -> np.generic | np.ndarray:
    """As an attribute of XLA: f64, i64, or an array of the elements that C takes."""
    if isinstance(value, jax.core.Tracer):
        raise BadParamError(
            op=operation.name, argument=attr.name, expected="a Python value: attributes are part of the compiled call",
            got="a traced array (name it in static_argnames, or use an operator that takes it as a tensor)",
        )  # fmt: skip
    found = operation.convert(index, value)
    if attr.length is not None:
        return np.frombuffer(_call.ffi.buffer(found), _call.element_type(attr))
    if isinstance(found, float):
        return np.float64(found)
    number = found[0] if isinstance(found, bytes) else found
    return np.uint64(number & 0xFFFF_FFFF_FFFF_FFFF).astype(np.int64)


def _jax_dtype(schema: Operator, name: str, sig: Signature) -> np.dtype:
    if sig.dtype.numpy is None:
        raise TensorDtypeError(op=schema.name, argument=name, expected="a dtype that JAX has", got=sig.dtype.name)
    return sig.dtype.numpy


def _is_pointwise(schema: Operator) -> bool:
    """Whether more leading axes, the same for all tensors, mean the same operator on more rows."""
    leading = {tokens[:1] for t in schema.tensors for tokens in shapes.parse(t.shape)}
    bounded = any(t.rank is not None for t in schema.tensors)
    counts_axes = any(a.ctype not in ("float", "double") for a in schema.attrs)
    first = next(iter(leading))
    return len(leading) == 1 and len(first) == 1 and first[0].group and not bounded and not counts_axes
