"""Interleaved timing: candidates take turns, so that a noisy machine is noisy for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

_PAUSE = 0.01


def medians(candidates: Mapping[str, Callable[[], object]], seconds: float = 0.4) -> dict[str, float]:
    """Median seconds per call of each candidate, measured in turns for about `seconds` in all.

    A candidate that alone takes longer is measured once: some peers take a minute where others take a millisecond.
    Before each turn there is a pause: threads of the one before may spin for some milliseconds yet, OpenMP's do.
    """
    first = {name: once(call) for name, call in candidates.items()}
    repeats = {name: 1 if first[name] > seconds else _repeats(call) for name, call in candidates.items()}
    times: dict[str, list[float]] = {name: [t] if t > seconds else [] for name, t in first.items()}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or any(len(t) < 3 for name, t in times.items() if first[name] <= seconds):
        for name, call in candidates.items():
            if first[name] <= seconds:
                time.sleep(_PAUSE if len(candidates) > 1 else 0)
                times[name].append(once(call, repeats[name]))
    return {name: statistics.median(t) for name, t in times.items()}


def once(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds per call over `repeats` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _repeats(call: Callable[[], object]) -> int:
    """As many calls as take about two milliseconds: below that the clock and the loop would show."""
    return max(1, min(10_000, int(2e-3 / max(once(call, 3), 1e-7))))
