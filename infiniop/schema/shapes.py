"""Shape strings: parsing them, and binding axes to extents."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Token:
    """One axis, or a group (`*name`) that stands for any number of axes."""

    name: str
    group: bool


@functools.cache
def parse(shape: str) -> tuple[tuple[Token, ...], ...]:
    """The alternatives of a shape string, each a tuple of tokens."""
    return tuple(
        tuple(Token(word.removeprefix("*"), word.startswith("*")) for word in alternative.split())
        for alternative in shape.split("|")
    )


def spelled(shape: str) -> list[str]:
    """The alternatives as people read them: `["[m, n]", "[b, m, n]"]`."""
    return [f"[{', '.join(alternative.split())}]" for alternative in shape.split("|")]


def choose(shape: str, rank: int, group_ranks: Mapping[str, int]) -> tuple[Token, ...] | None:
    """The first alternative that a tensor of this rank fits, given the group ranks known so far."""
    for tokens in parse(shape):
        fixed = sum(1 if not t.group else group_ranks.get(t.name, 0) for t in tokens)
        open_groups = [t for t in tokens if t.group and t.name not in group_ranks]
        if rank == fixed or (rank > fixed and len(open_groups) == 1):
            return tokens
    return None


class Mismatch(ValueError):
    """A tensor's shape contradicts what other tensors have bound."""


def bind(
    shape: str,
    extents: Sequence[int],
    axes: dict[str, int],
    groups: dict[str, tuple[int, ...]],
    group_ranks: Mapping[str, int] | None = None,
) -> None:
    """Bind one tensor's extents into `axes` and `groups`. Raises `Mismatch`."""
    ranks = {**(group_ranks or {}), **{name: len(bound) for name, bound in groups.items()}}
    tokens = choose(shape, len(extents), ranks)
    if tokens is None:
        bound = ", where " + ", ".join(f"{k} is {list(v)}" for k, v in groups.items()) if groups else ""
        raise Mismatch(f"rank {len(extents)} does not fit [{shape}]{bound}")
    fixed = sum(1 if not t.group else ranks.get(t.name, 0) for t in tokens)
    position = 0
    for token in tokens:
        if token.group:
            length = ranks.get(token.name, len(extents) - fixed)
            extent: object = tuple(extents[position : position + length])
            known: object = groups.setdefault(token.name, extent)  # type: ignore[arg-type]
            position += length
        else:
            extent = extents[position]
            known = axes.setdefault(token.name, extent)
            position += 1
        if known != extent:
            raise Mismatch(f"{token.name} is {known} elsewhere, {extent} here")


def shape_of(shape: str, axes: Mapping[str, int], groups: Mapping[str, tuple[int, ...]]) -> tuple[int, ...] | None:
    """The extents of the first alternative whose axes and groups are all known; None when there is none."""
    for tokens in parse(shape):
        if all(t.name in (groups if t.group else axes) for t in tokens):
            return tuple(n for t in tokens for n in (groups[t.name] if t.group else (axes[t.name],)))
    return None
