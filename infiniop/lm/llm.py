"""`LLM`: many prompts at once, offline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

from .auto import AutoLlamaModel
from .cache import CacheConfig
from .requests import CompletionOutput, RequestOutput, RequestParams
from .serving import ServingEngine
from .text import encode, load_tokenizer


class LLM:
    """A model folder, ready for batches of prompts of any lengths.

    `options` go to the `ServingEngine` and its scheduler: `max_step_tokens`, `max_running`, `prefix_caching`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        device: Any = "cpu",
        dtype: Any = None,
        quantize: str | None = None,
        cache_config: CacheConfig | None = None,
        **options: Any,
    ):
        self.tokenizer = load_tokenizer(path)
        model = AutoLlamaModel.from_pretrained(path, device, dtype, quantize)
        self.engine = ServingEngine(model, self.tokenizer, cache_config, max_waiting=1 << 62, **options)

    def params(self, **options: Any) -> RequestParams:
        """`RequestParams` whose sampling parameters, where they are not given or None, are the model's own."""
        names = ("temperature", "top_k", "top_p", "min_p")
        sampling = self.engine.model.sampling_options({name: options.pop(name, None) for name in names})
        return RequestParams(**sampling, **options)

    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[Sequence[int]],
        params: RequestParams | Sequence[RequestParams] | None = None,
        progress: bool = True,
    ) -> list[RequestOutput]:
        """Continues texts or rows of token ids, all with the same parameters or each with its own; in the order given.

        Without parameters, the model's own (`generation_config.json`; greedy without one) and 128 tokens.

        `progress` draws a bar on a terminal. Raises `ValueError`, before anything runs, for what cannot be served.
        """
        given: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
        each = list(params) if isinstance(params, Sequence) else [params or self.params()] * len(given)
        if len(each) != len(given):
            raise ValueError(f"{len(each)} parameters for {len(given)} prompts")
        for prompt, own in zip(given, each, strict=True):
            if not isinstance(prompt, Iterable):
                raise TypeError(f"a prompt must be a text or a row of token ids, got {prompt!r}")
            if not isinstance(own, RequestParams):
                raise TypeError(f"parameters must be RequestParams, got {type(own).__name__}")
        rows: list[list[int]] = [encode(self.tokenizer, p) if isinstance(p, str) else [*p] for p in given]
        results = [
            RequestOutput(p if isinstance(p, str) else None, row, [CompletionOutput(i) for i in range(own.n)])
            for p, row, own in zip(given, rows, each, strict=True)
        ]
        try:
            for number, (row, own) in enumerate(zip(rows, each, strict=True)):
                self.engine.add(str(number), row, own)
            self._run(results, progress)
        finally:
            for number in range(len(given)):
                self.engine.cancel(str(number))
            self.engine.step()
        return results

    def _run(self, results: list[RequestOutput], progress: bool) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]:.0f} tokens/s"))
        tokens = 0
        with Progress(*columns, TimeRemainingColumn(), disable=not progress, transient=True) as bar:
            task = bar.add_task("", total=sum(len(r.outputs) for r in results), speed=0.0)
            while self.engine:
                for event in self.engine.step():
                    results[int(event.request_id)].outputs[event.index].add(event)
                    tokens += event.token_id is not None
                    bar.advance(task, event.finish_reason is not None)
                bar.update(task, speed=tokens / max(bar.tasks[0].elapsed or 0.0, 1e-3))
