"""Many requests at once: the same results as each alone, whatever the batch, the cache and the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infiniop.lm import (
    LLM,
    AutoLlamaModel,
    HookRegistry,
    PagedKVCacheConfig,
    RequestParams,
    ServingEngine,
    StaticKVCacheConfig,
)
from infiniop.lm.arrays import infini_to_numpy
from infiniop.lm.text import StopText

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def model(checkpoint):
    return AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32")


def run(engine, requests) -> dict[tuple[str, int], list[int]]:
    """Tokens by request and continuation; everything is given back at the end."""
    for name, (prompt, params) in requests.items():
        engine.add(name, prompt, params)
    found: dict[tuple[str, int], list[int]] = {}
    while engine:
        for event in engine.step():
            found.setdefault((event.request_id, event.index), [])
            if event.token_id is not None:
                found[event.request_id, event.index].append(event.token_id)
    assert engine.cache.sequences.allocator.used_blocks == 0
    return found


def paged(blocks, size=4):
    return PagedKVCacheConfig(num_blocks=blocks, block_size=size)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (paged(200), {}),
        (paged(200), {"max_step_tokens": 8, "max_running": 4}),
        (paged(200), {"prefix_caching": False}),
        (paged(22), {}),  # most are preempted on the way
        (StaticKVCacheConfig(3, 80), {}),
    ],
    ids=["paged", "chunks", "no-prefixes", "exhausted", "static"],
)
def test_tokens_are_those_of_a_request_alone(model, checkpoint, prompts, config, options):
    rows = [*prompts(1, 3, 9, 17, 40, 2), *prompts(40)]  # the last begins like the fifth
    rows[-1] = rows[4][:33] + rows[-1][:5]
    engine = ServingEngine(model, cache_config=config, **options)
    params = RequestParams(max_new_tokens=24, ignore_eos=True)
    found = run(engine, {str(i): (row, params) for i, row in enumerate(rows)})
    for i, row in enumerate(rows):
        assert found[str(i), 0] == checkpoint("llama-gqa").greedy(row, 24), f"request {i}"
    statistics = engine.scheduler.statistics
    if config == paged(22):
        assert statistics.preemptions > 0
    again = run(engine, {"again": (rows[4], params)})
    assert again["again", 0] == found["4", 0]
    if config == paged(200) and not options:
        assert statistics.prefix_tokens > 0


@pytest.mark.parametrize("n", [1, 3])
def test_a_step_that_fails_can_be_made_again(model, prompts, n):
    """What a step has not computed is not taken for computed."""
    rows = prompts(9, 17, 30)
    params = RequestParams(max_new_tokens=12, temperature=0.8, seed=4, n=n, ignore_eos=True)
    requests = {str(i): (row, params) for i, row in enumerate(rows)}
    expected = run(ServingEngine(model, cache_config=paged(64)), requests)
    engine = ServingEngine(model, cache_config=paged(64), max_step_tokens=16, max_running=8)
    for name, (prompt, own) in requests.items():
        engine.add(name, prompt, own)
    found: dict[tuple[str, int], list[int]] = {}
    hooks, calls = HookRegistry(), 0

    def fail_at_times(*_):
        nonlocal calls
        calls += 1
        if calls % 5 == 3:
            raise KeyError("from the hook")

    hooks.register_hook("layer1_k_after_rope", fail_at_times)
    model.set_hook_registry(hooks)
    try:
        for _ in range(400):
            try:
                for event in engine.step():
                    found.setdefault((event.request_id, event.index), []).append(event.token_id)
            except KeyError:
                continue
    finally:
        model.set_hook_registry(None)
    assert found == expected and calls > 10
    assert engine.cache.sequences.allocator.used_blocks == 0


def test_other_parameters_compute_everything_anew(checkpoint, prompts):
    """What is in the cache is of the parameters that it was computed with."""
    model = AutoLlamaModel.from_pretrained(checkpoint("llama-gqa").path, dtype="float32")
    (row,) = prompts(21)
    params = RequestParams(max_new_tokens=12, ignore_eos=True)
    engine = ServingEngine(model, cache_config=paged(64))
    before = run(engine, {"x": (row, params)})
    engine.add("y", row, params)
    midway = [event.token_id for _ in range(4) for event in engine.step()]
    name = "model.layers.0.self_attn.k_proj.weight"
    model.load_param(name, infini_to_numpy(model.state_dict()[name])[::-1].copy())
    rest = []
    while engine:
        rest += [event.token_id for event in engine.step()]
    fresh = ServingEngine(model, cache_config=paged(64), prefix_caching=False)
    assert midway + rest == [*midway, *run(fresh, {"z": (row + midway, replace(params, max_new_tokens=8))})["z", 0]]
    assert run(engine, {"w": (row, params)})["w", 0] == run(fresh, {"w": (row, params)})["w", 0] != before["x", 0]


def test_sampled_tokens_do_not_depend_on_the_batch(model, prompts):
    rows = prompts(5, 12, 30)
    params = [RequestParams(temperature=0.9, top_p=0.9, seed=i, max_new_tokens=16, ignore_eos=True) for i in range(3)]
    together = run(ServingEngine(model, cache_config=paged(64)), dict(enumerate_names(rows, params)))
    for name, request in enumerate_names(rows, params):
        alone = run(ServingEngine(model, cache_config=paged(64)), {name: request})
        assert alone[name, 0] == together[name, 0]


def enumerate_names(rows, params):
    return [(str(i), pair) for i, pair in enumerate(zip(rows, params, strict=True))]


def test_continuations_draw_with_seeds_of_their_own(model, prompts):
    (row,) = prompts(18)
    sampled = RequestParams(temperature=1.0, seed=5, n=3, max_new_tokens=12, ignore_eos=True)
    engine = ServingEngine(model, cache_config=paged(64))
    found = run(engine, {"x": (row, sampled)})
    for index in range(3):
        alone = RequestParams(temperature=1.0, seed=5 + index, max_new_tokens=12, ignore_eos=True)
        assert run(ServingEngine(model, cache_config=paged(64)), {"y": (row, alone)})["y", 0] == found["x", index]
    assert len({tuple(tokens) for tokens in found.values()}) == 3


def test_blocks_are_copied_before_they_are_shared_no_more(model, prompts):
    """After a fork, keys and values of every continuation are those of the same tokens computed alone."""
    (row,) = prompts(10)
    engine = ServingEngine(model, cache_config=paged(64))
    engine.add("x", row, RequestParams(temperature=1.0, seed=1, n=2, max_new_tokens=9, ignore_eos=True))
    tokens: dict[int, list[int]] = {0: [], 1: []}
    while all(len(t) < 6 for t in tokens.values()):
        for event in engine.step():
            tokens[event.index].append(event.token_id)
    for index in (0, 1):
        written = [*row, *tokens[index]][:-1]
        cache = model.new_cache(paged(64))
        cache.sequences.add("y")
        model.forward(cache.batch(["y"], [written]), cache)
        np.testing.assert_allclose(
            keys(engine.cache, ("x", index), len(written)), keys(cache, "y", len(written)), rtol=1e-3, atol=1e-4
        )


def keys(cache, seq_id, length) -> np.ndarray:
    """[layers, nkvh, length, head_dim]"""
    pool = infini_to_numpy(cache.pool.keys)[:, list(cache.sequences.blocks(seq_id))]
    layers, _, heads, _, size = pool.shape
    return pool.transpose(0, 2, 1, 3, 4).reshape(layers, heads, -1, size)[:, :, :length]


@pytest.mark.parametrize("name", ["repetition_penalty", "presence_penalty", "frequency_penalty"])
def test_penalties(model, checkpoint, prompts, name):
    transformers = pytest.importorskip("transformers")
    (row,) = prompts(12)
    value = 0.2 if name == "repetition_penalty" else -2.0  # this model does not repeat itself unless it is asked to
    params = RequestParams(max_new_tokens=20, ignore_eos=True, **{name: value})
    found = run(ServingEngine(model, cache_config=paged(64)), {"x": (row, params)})["x", 0]
    expected: list[int] = []
    for _ in range(20):
        logits = torch.tensor(checkpoint("llama-gqa").logits([[*row, *expected]])[0][-1])[None]
        if name == "repetition_penalty":
            processor = transformers.RepetitionPenaltyLogitsProcessor(value)
            logits = processor(torch.tensor([[*row, *expected]]), logits)
        for token in set(expected):
            times = expected.count(token) if name == "frequency_penalty" else name == "presence_penalty"
            logits[0, token] -= value * times
        expected.append(int(logits.argmax()))
    assert found == expected
    assert (
        found
        != run(ServingEngine(model, cache_config=paged(64)), {"x": (row, RequestParams(max_new_tokens=20))})["x", 0]
    )


def test_log_probabilities(model, checkpoint, prompts):
    (row,) = prompts(7)
    engine = ServingEngine(model, cache_config=paged(64))
    engine.add("x", row, RequestParams(max_new_tokens=4, logprobs=3, ignore_eos=True))
    tokens = list(row)
    while engine:
        for event in engine.step():
            expected = torch.log_softmax(torch.tensor(checkpoint("llama-gqa").logits([tokens])[0][-1]), -1)
            values, ids = expected.topk(3)
            assert [t for t, _ in event.logprobs.top] == ids.tolist()
            np.testing.assert_allclose([p for _, p in event.logprobs.top], values.numpy(), atol=1e-3)
            assert event.logprobs.token_id == event.token_id
            np.testing.assert_allclose(event.logprobs.logprob, float(expected[event.token_id]), atol=1e-3)
            tokens.append(event.token_id)


def test_cancelled_and_late_requests_end_and_free_their_blocks(model, prompts):
    now = [0.0]
    engine = ServingEngine(model, cache_config=paged(64), clock=lambda: now[0])
    for name, timeout in (("kept", None), ("late", 5.0), ("cancelled", None)):
        engine.add(name, prompts(9)[0], RequestParams(max_new_tokens=30, timeout=timeout, ignore_eos=True))
    engine.step()
    engine.cancel("cancelled")
    engine.cancel("unknown")
    now[0] = 6.0
    ends = {e.request_id: e.finish_reason for _ in range(40) for e in engine.step() if e.finish_reason}
    assert ends == {"kept": "length", "late": "deadline", "cancelled": "cancelled"}
    assert not engine and engine.cache.sequences.allocator.used_blocks == 0


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([640], {}, "outside the vocabulary of 640"),
        ([True], {}, "outside the vocabulary"),
        ([1] * 30, {"max_new_tokens": 300}, "need 83 cache blocks"),
        ([1], {"stop": ("x",)}, "stop texts need a tokenizer"),
        ([1], {"logprobs": 641}, "logprobs must be at most 640"),
    ],
)
def test_requests_that_cannot_be_served(model, prompt, params, message):
    engine = ServingEngine(model, cache_config=paged(64))
    with pytest.raises(ValueError, match=message):
        engine.add("x", prompt, RequestParams(**params))
    assert not engine


@pytest.mark.parametrize(
    "bad",
    [
        {"n": 0}, {"max_new_tokens": 0}, {"max_new_tokens": True}, {"repetition_penalty": 0.0}, {"temperature": -1.0},
        {"presence_penalty": 3.0}, {"frequency_penalty": float("nan")}, {"logprobs": -1}, {"timeout": 0.0},
        {"stop": ("",)},
    ],
)  # fmt: skip
def test_illegal_parameters(bad):
    with pytest.raises(ValueError, match=next(iter(bad)).removesuffix("s")):
        RequestParams(**bad)


def test_a_stop_text_is_no_tuple_of_its_letters():
    with pytest.raises(TypeError, match="stop must be a tuple of texts"):
        RequestParams(stop="end")  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_texts_are_found_wherever_the_pieces_end(text, stop, data):
    matcher, shown, rest = StopText(stop), "", text
    stopped = False
    while rest and not stopped:
        cut = data.draw(st.integers(1, len(rest)))
        more, stopped = matcher.push(rest[:cut])
        shown, rest = shown + more, rest[cut:]
    if not stopped:
        shown += matcher.flush()
    places = [place for place in (text.find(s) for s in stop) if place >= 0]
    assert stopped == bool(places)
    # Among stop texts that end with the same piece the first one counts.
    assert shown == text[: len(shown)] and not any(s in shown for s in stop)
    assert stopped or shown == text


MODEL = "examples/demo_model/model"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": "hot"}, "temperature must be a number, got 'hot'"),
        ({"temperature": None}, "temperature must be a number"),
        ({"top_k": 1.5}, "top_k must be an integer"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"logprobs": 1.5}, "logprobs must be an integer"),
        ({"timeout": "1"}, "timeout must be a number"),
        ({"presence_penalty": None}, "presence_penalty must be a number"),
        ({"stop": (1,)}, "stop must be a tuple of texts"),
        ({"stop_token_ids": "ab"}, "stop_token_ids must be integers"),
    ],
)
def test_parameters_of_a_wrong_type(options, words):
    """Said when they are made: in the middle of a step they would stop everybody's."""
    with pytest.raises(TypeError, match=words):
        RequestParams(**options)
    RequestParams(temperature=np.float32(0.5), top_k=np.int64(3), seed=np.int32(1), timeout=1)


def test_prompts_of_a_wrong_type():
    llm = LLM(MODEL)
    with pytest.raises(TypeError, match="a prompt must be a text or a row of token ids, got 1"):
        llm.generate([1, 2, 3])
    with pytest.raises(TypeError, match="parameters must be RequestParams, got dict"):
        llm.generate(["x"], {"max_new_tokens": 2})


def test_extreme_parameters_are_what_float32_has_nearest():
    llm = LLM(MODEL)
    greedy, hot = (RequestParams(max_new_tokens=3, temperature=t, top_p=1e-300, seed=1) for t in (1e-300, 1e300))
    found = llm.generate(["def f("] * 2, [greedy, hot], progress=False)
    assert found[0].outputs[0].token_ids == found[1].outputs[0].token_ids  # the likeliest token alone is left


def test_offline_batches_keep_their_order():
    llm = LLM(MODEL)
    params = [RequestParams(max_new_tokens=8), RequestParams(max_new_tokens=3, n=2), RequestParams(max_new_tokens=5)]
    found = llm.generate(["def f(", [5, 6, 7], "import "], params, progress=False)
    assert [r.prompt for r in found] == ["def f(", None, "import "]
    assert [[len(o.token_ids) for o in r.outputs] for r in found] == [[8], [3, 3], [5]]
    assert found[0].outputs[0].text == llm.tokenizer.decode(found[0].outputs[0].token_ids)
    (again,) = llm.generate("def f(", RequestParams(max_new_tokens=8), progress=False)
    assert again.outputs == found[0].outputs


def test_stop_texts_end_a_continuation():
    llm = LLM(MODEL)
    (whole,) = llm.generate("import os\n", RequestParams(max_new_tokens=24), progress=False)
    text = whole.outputs[0].text
    stop = text[7:10]
    (found,) = llm.generate("import os\n", RequestParams(max_new_tokens=24, stop=(stop,)), progress=False)
    assert (found.outputs[0].text, found.outputs[0].finish_reason) == (text[: text.index(stop)], "stop")


def test_nothing_runs_when_one_prompt_is_wrong():
    llm = LLM(MODEL)
    with pytest.raises(ValueError, match="vocabulary"):
        llm.generate([[1, 2], [10**6]], progress=False)
    assert not llm.engine
    with pytest.raises(ValueError, match="2 parameters for 1 prompts"):
        llm.generate(["a"], [RequestParams()] * 2)
