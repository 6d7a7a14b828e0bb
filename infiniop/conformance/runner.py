"""Samples and error samples on a backend, against the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from infiniop.errors import InternalError
from infiniop.inference import Binding
from infiniop.operators import all_operators
from infiniop.schema import HALVES, BadValue, ErrorSample, Operator, Sample, Status, dtype

from .call import Declined, Failed, run, signature
from .memory import Arguments, Block
from .subject import Subject, subject

Arrays = Mapping[str, "np.ndarray | None"]


def run_sample(operator: Operator, sample: Sample, backend: str) -> list[str]:
    """What is wrong with the backend's answer; [] when nothing is. Raises `Declined`."""
    tested = subject(backend)
    try:
        actual = arguments_of(operator, sample, tested)
    except Failed as error:
        return [f"preparation: {error}"]
    expected = Expected(operator, sample)
    try:
        failures = run(operator, tested, actual, sample.attrs)
    except Failed as failed:
        if expected.refusal is None:
            return [str(failed), *actual.violations()]
        changed = [f"{n}: memory changed: {b.changed()}" for n, b in actual.blocks.items() if b.changed()]
        return [*_wrong_refusal(operator, Status.BAD_PARAM, "run", expected.refusal.argument, failed), *changed]
    if expected.refusal is None:
        return failures + expected.differences(actual)
    if tested.device.is_cpu:
        failures.append(f"accepted what the reference refuses: {expected.refusal}")
    return failures


def arguments_of(operator: Operator, sample: Sample, tested: Subject) -> Arguments:
    """The sample in memory, outputs poisoned, opaque tensors made by the backend itself. Raises `Failed`."""
    made = sample.prepare(_caller(tested)) if sample.prepare is not None else {}
    arguments = Arguments(operator, {**sample.tensors, **made}, sample.shift)
    arguments.poison_outputs(_read_outputs(operator, sample))
    return arguments


class Expected:
    """What the reference makes of a sample."""

    def __init__(self, operator: Operator, sample: Sample):
        self.operator, self.attrs = operator, python_attrs(operator, sample.attrs)
        self.arguments = Arguments(operator, sample.tensors)
        self.arguments.poison_outputs(_read_outputs(operator, sample))
        self.inputs = {n: None if a is None else a.copy() for n, a in sample.tensors.items()}
        self.refusal: BadValue | None = None
        outputs = [self.arguments.blocks[t.name] for t in operator.outputs if t.name in self.arguments.blocks]
        if not any(block.array.size for block in outputs):
            return  # succeeds unseen
        try:
            operator.reference(**self.arguments.arrays(), **self.attrs)
        except BadValue as error:
            self.refusal = error

    def differences(self, actual: Arguments) -> list[str]:
        """Where the outputs are not as they should be."""
        operator, blocks = self.operator, self.arguments.blocks
        if operator.compare is not None:
            difference = operator.compare(self.arguments.arrays(), actual.arrays(), self.inputs, self.attrs)
            return [difference] if difference else []
        tolerance, found = _tolerance(operator, self.arguments), []
        for tensor in operator.outputs:
            if tensor.name in actual.blocks and not tensor.opaque:
                want, got = blocks[tensor.name].array, actual.blocks[tensor.name].array
                difference = compare(want, got, tolerance) or truncation(want, got)
                if not difference and want.size and dtype(want.dtype).is_float:
                    difference = unwritten(blocks[tensor.name], actual.blocks[tensor.name])
                found += [f"{tensor.name}: {difference}"] if difference else []
        return found


def _caller(tested: Subject) -> Callable[[str, Arrays, Mapping[str, object]], None]:
    """What `Sample.prepare` calls operators of the backend with."""

    def call(name: str, tensors: Arrays, attrs: Mapping[str, object]) -> None:
        if not tested.has(name):
            raise Declined(f"{tested.backend} has no {name}, which makes an argument of this sample")
        operator = all_operators()[name]
        arguments = Arguments(operator, tensors)
        wrong = run(operator, tested, arguments, attrs)
        if wrong:
            raise Failed("run", InternalError(f"{name}: {wrong[0]}"))
        for tensor in operator.outputs:
            target = tensors[tensor.name]
            if target is not None:
                target[...] = arguments.blocks[tensor.name].array

    return call


def run_error_sample(operator: Operator, sample: ErrorSample, backend: str) -> list[str]:
    """What is wrong with how the backend refuses the call; [] when nothing is.

    A wrong value inside a tensor is the CPU's to refuse; other devices may skip what it concerns.
    """
    tested, arguments = subject(backend), Arguments(operator, sample.tensors)
    try:
        violations = run(operator, tested, arguments, sample.attrs, {sample.at: sample.null})
    except Failed as failed:
        changed = [f"{n}: memory changed: {b.changed()}" for n, b in arguments.blocks.items() if b.changed()]
        return [*_wrong_refusal(operator, sample.status, sample.at, sample.argument, failed), *changed]
    if is_inside_a_tensor(operator, sample) and not tested.device.is_cpu:
        return violations
    return [f"expected {Status(sample.status).name} at {sample.at}, got SUCCESS", *violations]


def is_inside_a_tensor(operator: Operator, sample: ErrorSample) -> bool:
    """Whether only the kernel can see what is wrong."""
    return sample.at == "run" and not sample.null and any(t.name == sample.argument for t in operator.tensors)


def _wrong_refusal(operator: Operator, status: int, at: str, argument: str, failed: Failed) -> list[str]:
    """What is wrong with a refusal that was due."""
    found = []
    if failed.error.status != status:
        found.append(f"expected {Status(status).name}, got {failed}")
    if failed.at != at:
        found.append(f"refused at {failed.at}, expected at {at}: {failed}")
    for what, name in (("argument", argument), ("operator", operator.name)):
        if name not in str(failed.error):
            found.append(f"the message does not name the {what} {name}: {failed.error}")
    return found


def python_attrs(operator: Operator, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as a kernel gets them: enums as integers, floats in C's precision, defaults filled in."""
    found = {}
    for attr in operator.attrs:
        value = attrs.get(attr.name, attr.default)
        if attr.enum and isinstance(value, str):
            value = attr.enum.index(value)
        if attr.ctype == "float":
            value = float(np.float32(value)) if attr.length is None else np.asarray(value, np.float32)
        found[attr.name] = value
    return found


def _read_outputs(operator: Operator, sample: Sample) -> set[str]:
    """OUT tensors that this call reads as well."""
    conditions = {t.name: t.read_when for t in operator.tensors if t.read_when}
    if not conditions:
        return set()
    sigs = {n: None if a is None else signature(a) for n, a in sample.tensors.items()}
    binding = Binding(operator, sigs, python_attrs(operator, sample.attrs))
    return {name for name, text in conditions.items() if binding.value(text)}


def _tolerance(operator: Operator, arguments: Arguments) -> tuple[float, float] | None:
    """(atol, rtol) by the dtype of the first output; None: exact."""
    first = next((t for t in operator.outputs if t.name in arguments.blocks), None)
    return None if first is None else operator.tolerances.get(dtype(arguments.blocks[first.name].array.dtype))


def compare(expected: np.ndarray, actual: np.ndarray, tolerance: tuple[float, float] | None) -> str | None:
    """A sentence when they differ by more than `tolerance` allows (integers: when they differ)."""
    if expected.size == 0:
        return None
    if not dtype(expected.dtype).is_float or tolerance is None:
        wrong = np.asarray(expected != actual)
        if dtype(expected.dtype).is_float:  # any NaN is as good as another
            wrong &= ~(np.isnan(expected) & np.isnan(actual))
        bound = np.zeros(())
    else:
        wide, found = expected.astype(np.float64), actual.astype(np.float64)
        bound = np.asarray(tolerance[0] + tolerance[1] * np.abs(wide))
        with np.errstate(invalid="ignore", over="ignore"):
            close = np.abs(found - wide) <= bound
        wrong = ~(close | (wide == found) | (np.isnan(wide) & np.isnan(found)))
    if not wrong.any():
        return None
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
    limit = f", allowed difference {float(np.broadcast_to(bound, wrong.shape)[where]):.3g}" if bound.ndim else ""
    return (
        f"{int(wrong.sum())} of {wrong.size} elements differ, the first at {list(where)}: "
        f"expected {expected[where]}, got {actual[where]}{limit}"
    )


def unwritten(expected: Block, actual: Block) -> str | None:
    """A sentence when a NaN that should have been written is the poison that lay there: they compare as equal."""
    left = actual.poisoned() & ~expected.poisoned()
    if not left.any():
        return None
    where = [int(i) for i in np.argwhere(left)[0]]
    return f"{int(left.sum())} of {left.size} elements were not written, the first at {where}"


def truncation(expected: np.ndarray, actual: np.ndarray) -> str | None:
    """A sentence when a half-precision result is cut off instead of rounded: within the tolerance, but always below."""
    if dtype(expected.dtype) not in HALVES:
        return None
    want, got = (np.abs(a.astype(np.float64)) for a in (expected, actual))
    different = want != got
    count = int(different.sum())
    few = np.unique(want[different]).size < 64  # values, however often each occurs: repeated operands say nothing new
    if few or count <= want.size / 5 or int((got < want).sum()) <= 0.9 * count:
        return None
    return f"{count} of {want.size} elements differ within the tolerance, nearly all towards 0: cut off, not rounded"


def elements(sample: Sample | ErrorSample) -> int:
    """How many elements its tensors hold."""
    return sum(math.prod(a.shape) for a in sample.tensors.values() if a is not None)


__all__ = [
    "Declined", "Failed", "compare", "elements", "python_attrs", "run_error_sample", "run_sample", "signature",
]  # fmt: skip
