"""What `/metrics` tells, in Prometheus' format."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ..scheduler import SchedulerStatistics
from ..serving import ServingEngine

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one server. `registry` is what is exposed."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("infiniop_requests", "Requests by outcome.", ["outcome"], registry=registry)
        self._prompt = Counter("infiniop_prompt_tokens", "Prompt tokens of sequences that ran.", registry=registry)
        self._prefix = Counter("infiniop_prefix_hit_tokens", "Of these, found in the cache.", registry=registry)
        self._generated = Counter("infiniop_generated_tokens", "Tokens generated.", registry=registry)
        self._preemptions = Counter("infiniop_preemptions", "Sequences that gave their blocks back.", registry=registry)
        self._ttft = Histogram(
            "infiniop_ttft_seconds", "Time to a continuation's first token.", buckets=_SECONDS, registry=registry
        )
        self._itl = Histogram("infiniop_itl_seconds", "Time between tokens.", buckets=_SECONDS, registry=registry)
        self._waiting = Gauge("infiniop_waiting", "Sequences that wait.", registry=registry)
        self._running = Gauge("infiniop_running", "Sequences that run.", registry=registry)
        self._used = Gauge("infiniop_cache_blocks_used", "Cache blocks in use.", registry=registry)
        self._counted = SchedulerStatistics()
        self._blocks = Gauge("infiniop_cache_blocks", "Cache blocks in all.", registry=registry)

    def observe(self, engine: ServingEngine) -> None:
        """After a step."""
        scheduler, allocator = engine.scheduler, engine.cache.sequences.allocator
        self._waiting.set(scheduler.waiting)
        self._running.set(scheduler.running)
        self._used.set(allocator.used_blocks)
        self._blocks.set(allocator.num_blocks)
        now, before = scheduler.statistics, self._counted
        self._prompt.inc(now.prompt_tokens - before.prompt_tokens)
        self._prefix.inc(now.prefix_tokens - before.prefix_tokens)
        self._preemptions.inc(now.preemptions - before.preemptions)
        self._counted = replace(now)

    def token(self, since_request: float, last: float | None, now: float) -> None:
        """A token came now; `last` is when its continuation had one before."""
        self._generated.inc()
        if last is None:
            self._ttft.observe(since_request)
        else:
            self._itl.observe(now - last)
