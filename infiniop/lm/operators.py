"""What the engine needs of a device: the operators that it cannot do without, and those that it composes when
absent."""

from __future__ import annotations

from collections.abc import Iterable

# Each entry needs one of its alternatives; "silu+mul" is both together. The first that a device has is used.
REQUIRED_OPERATORS: tuple[tuple[str, ...], ...] = (
    ("embedding",),
    ("rms_norm",),
    ("rope",),
    ("linear", "gemm+rearrange"),
    ("swiglu", "silu+mul", "silu_and_mul"),
    ("add_rms_norm", "add"),
    ("select_last_token_hidden", "rearrange"),
    ("paged_caching",),
    ("paged_attention", "paged_attention_prefill"),
    ("paged_attention_prefill",),
)

# Used where they exist: what stands in for each is in `functional.py`.
OPTIONAL_OPERATORS = (
    "linear", "linear_pack", "linear_packed_size", "add_rms_norm", "swiglu", "select_last_token_hidden",
    "paged_attention", "sample",
)  # fmt: skip


ALL_OPERATORS = frozenset(
    name for alternatives in REQUIRED_OPERATORS for alternative in alternatives for name in alternative.split("+")
).union(OPTIONAL_OPERATORS)


class MissingOperatorsError(RuntimeError):
    """The device lacks operators that the model cannot do without; `missing` lists them."""

    def __init__(self, device: str, missing: list[str]):
        self.device, self.missing = device, missing
        super().__init__(
            f"device {device!r} lacks operators that the model needs: {'; '.join(missing)}. "
            "`infiniop ops` shows which backend has which operator"
        )


def chosen(alternatives: tuple[str, ...], available: Iterable[str]) -> str | None:
    """The first alternative that is complete; None when there is none."""
    have = set(available)
    return next((a for a in alternatives if have.issuperset(a.split("+"))), None)


def check_operators(device: str, available: Iterable[str]) -> None:
    """Raises `MissingOperatorsError` that lists everything that is missing."""
    have = set(available)
    missing = [" or ".join(alternatives) for alternatives in REQUIRED_OPERATORS if chosen(alternatives, have) is None]
    if missing:
        raise MissingOperatorsError(device, missing)
