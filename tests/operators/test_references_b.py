"""References of matrix products, attention, caches, sampling and topk against torch, transformers or plain loops."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest

from infiniop.operators import _packed, all_operators, linear, linear_pack, random_sample, sample
from infiniop.schema import BadValue, Operator, Role, Sample, Status, dtype

torch = pytest.importorskip("torch")
functional = torch.nn.functional


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small products: threads would only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


Arrays = Mapping[str, "np.ndarray | None"]


def samples_of(name: str) -> Iterator[tuple[Operator, Sample]]:
    operator = all_operators()[name]
    for given in operator.samples(np.random.default_rng(7)):
        yield operator, given


def copies(tensors: Arrays, wide: bool) -> dict[str, np.ndarray | None]:
    """Row-major copies; `wide`: floats as float64, so that a reference stores what it computed."""
    found: dict[str, np.ndarray | None] = {}
    for name, array in tensors.items():
        if array is None:
            found[name] = None
        else:
            is_float = dtype(array.dtype).is_float
            found[name] = array.astype(np.float64) if wide and is_float else np.array(array, order="C")
    return found


def as_torch(tensors: Arrays) -> dict[str, object]:
    wide = copies(tensors, wide=True)
    return {n: None if a is None else torch.from_numpy(a) for n, a in wide.items()}


def run(operator: Operator, given: Sample, wide: bool) -> dict[str, np.ndarray]:
    tensors = copies(given.tensors, wide)
    operator.reference(**tensors, **given.attrs)
    return {t.name: tensors[t.name] for t in operator.outputs}  # type: ignore[misc]


def agree(operator: Operator, given: Sample, expected: Mapping[str, object]) -> None:
    """The reference's float64 result to the last digits, and what it stores within the operator's tolerance."""
    wide = run(operator, given, wide=True)
    for name, value in expected.items():
        np.testing.assert_allclose(wide[name], value, rtol=1e-9, atol=1e-11, err_msg=f"{given.name}: {name}")
    stored = {} if "large" in given.tags else run(operator, given, wide=False)
    for name in stored:
        want = np.asarray(expected[name])
        kind = dtype(stored[name].dtype)
        atol, rtol = operator.tolerances.get(kind, (0.0, 0.0))
        rounded = torch.from_numpy(want.copy()).to(getattr(torch, repr(kind).removeprefix("infiniop.")))
        np.testing.assert_allclose(
            stored[name].astype(np.float64),
            rounded.double().numpy(),
            atol=atol,
            rtol=rtol,
            err_msg=f"{given.name}: {name}",
        )


# ---- matrix products ------------------------------------------------------------------------------------------


def test_gemm() -> None:
    for operator, given in samples_of("gemm"):
        t, beta = as_torch(given.tensors), given.attrs["beta"]
        result = given.attrs["alpha"] * torch.matmul(t["a"], t["b"])
        result = result.reshape(t["c"].shape) if result.numel() == t["c"].numel() else result.expand(t["c"].shape)
        agree(operator, given, {"c": result if beta == 0 else result + beta * t["c"]})


def _floats(packed: np.ndarray, n: int, k: int, like: np.ndarray) -> np.ndarray:
    return packed[64 : 64 + n * k * like.itemsize].view(like.dtype).reshape(n, k)


def test_linear() -> None:
    for operator, given in samples_of("linear"):
        weight = given.tensors["weight"]
        if weight.ndim == 2:
            t = as_torch(given.tensors)
            agree(operator, given, {"y": functional.linear(t["x"], t["weight"], t["bias"])})
        elif struct.unpack("<I", weight[12:16].tobytes()) == (0,):
            y, x = given.tensors["y"], given.tensors["x"]
            plain = {**given.tensors, "weight": _floats(weight, y.shape[1], x.shape[1], x)}
            same = run(operator, Sample("", plain), wide=False)["y"]
            np.testing.assert_array_equal(run(operator, given, wide=False)["y"], same, given.name)


def test_linear_of_a_quantised_weight_is_that_of_its_numbers() -> None:
    rng = np.random.default_rng(0)
    for name, weight in linear_pack.quantised(rng):
        n, k = weight.weight.shape
        x, y = rng.normal(size=(3, k)), np.zeros((3, n))
        packed = linear_pack.packed_by_reference(weight)
        linear.reference(y, x.astype(np.float32), packed, None)
        numbers = _packed.read(packed, n, k, np.dtype(np.float32)).values
        np.testing.assert_allclose(y, x.astype(np.float32).astype(np.float64) @ numbers.T, err_msg=name)
        if not weight.weight.size:
            continue
        size = weight.group_size or k
        if weight.scales is not None:
            q = weight.weight.astype(int) - (0 if weight.zeros is None else weight.zeros.astype(int).repeat(size, 1))
            np.testing.assert_array_equal(numbers, q * weight.scales.astype(np.float64).repeat(size, 1), name)
        else:
            wide = weight.weight.astype(np.float64)
            largest = np.abs(wide).reshape(n, -1, size).max(-1).repeat(size, 1)
            step = largest / 127 / 2 if weight.format == 1 else largest / 8
            assert (np.abs(numbers - wide) <= step * 1.02 + 1e-38).all(), name


def test_floats_are_quantised_as_written() -> None:
    int8, scales = _packed.quantise(np.array([[127.0, -3.5, 2.5, 0.4], [0, 0, 0, 0]], np.float32), 1, 4)
    assert (int8.tolist(), scales.tolist()) == ([[127, -4, 2, 0], [0, 0, 0, 0]], [[1], [0]])
    int4, scales = _packed.quantise(np.array([[8.0, -8.0, 7.5, 2.5, -4.0, 16.0, 0.0, -16.1]], np.float32), 2, 4)
    assert (int4.tolist(), scales.tolist()) == ([[7, -8, 7, 2, -2, 7, 0, -8]], [[1, 2.015625]])
    int4, scales = _packed.quantise(np.array([[8.0, -7.0, -7.6, 3.5]], np.float32), 2, 0)
    assert (int4.tolist(), scales.tolist()) == ([[-8, 7, 7, -4]], [[-1]])


def test_packed_weights_begin_with_their_header() -> None:
    for operator, given in samples_of("linear_pack"):
        weight, format = given.tensors["weight"], given.attrs["format"]
        packed = run(operator, given, wide=False)["packed"]
        n, k = weight.shape
        found = struct.unpack("<8sIIqqqII16s", packed[:64].tobytes())
        assert found[:7] == (b"INFINIPK", 1, format, n, k, given.attrs["group_size"], dtype(weight.dtype).code)
        assert found[8] == bytes(16)
        if format == 0:
            assert found[7] == 0
            assert packed[64:].tobytes() == np.ascontiguousarray(weight).tobytes()
    for operator, given in samples_of("linear_packed_size"):
        n, k = given.tensors["weight"].shape
        size, group = run(operator, given, wide=False)["size"] - 64, given.attrs["group_size"]
        if given.attrs["format"] == 0:
            assert size == n * k * given.tensors["weight"].itemsize
        else:
            scales, zeros = given.tensors["scales"], given.tensors["zeros"]
            per_group = (2 if scales is None else scales.itemsize) + (zeros is not None)
            integers = n * k if given.attrs["format"] == 1 else (n * k + 1) // 2
            assert size == integers + n * (k // group if group else 1) * per_group


def test_linear_pack_compares_headers_but_not_layouts() -> None:
    given = next(iter(linear_pack.linear_pack.samples(np.random.default_rng(0))))
    right = run(linear_pack.linear_pack, given, wide=False)
    elsewhere = right["packed"].copy()
    _packed.Header(0, *given.tensors["weight"].shape, 0, 12, layout=77).write(elsewhere)
    assert linear_pack.compare_packed(right, {"packed": elsewhere}, given.tensors, given.attrs) is None
    for byte in (0, 16, 24, 40):
        wrong = elsewhere.copy()
        wrong[byte] += 1
        assert "packed" in linear_pack.compare_packed(right, {"packed": wrong}, given.tensors, given.attrs)


def test_linear_compares_within_the_bound_of_rounded_activations() -> None:
    weight = linear_pack.Weight(np.full((1, 256), 127.0, np.float32), format=1, group_size=128)
    x = np.ones((1, 256), np.float32)
    x[0, 200] = 4
    inputs = {"x": x, "weight": linear_pack.packed_by_reference(weight), "bias": None}
    want = np.array([[259 * 127.0]], np.float32)
    for bits, steps in ((16, 65_000), (8, 250)):
        bound = 2e-5 + 1e-5 * want + 128 * 127 * (1 + 4) / steps
        for factor, good in ((0.99, True), (1.01, False)):
            for sign in (-1, 1):
                got = {"y": want.astype(np.float64) + sign * factor * bound}
                said = linear.compare({"y": want}, got, inputs, {"activation_bits": bits})
                assert (said is None) == good
                assert good or "[0, 0]" in said


# ---- caches and attention -------------------------------------------------------------------------------------


def test_kv_caching() -> None:
    for operator, given in samples_of("kv_caching"):
        t = as_torch(given.tensors)
        for b, past in enumerate(given.tensors["past_kv_lengths"].tolist()):
            for s in range(t["k"].shape[2]):
                t["k_cache"][b, :, past + s] = t["k"][b, :, s]
                t["v_cache"][b, :, past + s] = t["v"][b, :, s]
        agree(operator, given, {"k_cache": t["k_cache"], "v_cache": t["v_cache"]})


def attend(q, k, v, scale, seen, slopes=None, epsilon=0.0):
    """torch's attention: q [nh, s, d]; `seen[i]` keys for query i; `epsilon` is a further key that nobody values."""
    group = q.shape[0] // max(k.shape[0], 1)
    k, v = (x.repeat_interleave(group, 0) for x in (k, v))
    position = torch.arange(k.shape[1])
    bias = torch.where(position < seen[:, None], 0.0, -math.inf).double().expand(q.shape[0], -1, -1)
    if slopes is not None:
        bias = bias + slopes[:, None, None] * (position - seen[:, None] + 1)
    if epsilon:
        highest = (scale * q @ k.mT + bias).amax(-1, keepdim=True)
        bias = torch.cat([bias, highest + math.log(epsilon)], -1)
        k, v = (torch.cat([x, torch.zeros_like(x[:, :1])], 1) for x in (k, v))
    return functional.scaled_dot_product_attention(q[None], k[None], v[None], bias[None], scale=scale)[0]


def rows(cache, table, length: int):
    """The first tokens of a sequence as [nkvh, length, d]."""
    t, size = torch.arange(length), cache.shape[2]
    blocks = torch.from_numpy(table.astype(np.int64))[t // size]
    return cache[blocks, :, t % size].transpose(0, 1)


def test_paged_attention() -> None:
    for operator, given in samples_of("paged_attention"):
        t, scale = as_torch(given.tensors), given.attrs["scale"]
        for s, length in enumerate(given.tensors["seq_lens"].tolist()):
            if length > 0:
                k, v = (rows(t[name], given.tensors["block_tables"][s], length) for name in ("k_cache", "v_cache"))
                seen = torch.tensor([length])
                t["out"][s] = attend(t["q"][s][:, None], k, v, scale, seen, t["alibi_slopes"], 1e-6)[:, 0]
        agree(operator, given, {"out": t["out"]})


def test_paged_attention_prefill() -> None:
    for operator, given in samples_of("paged_attention_prefill"):
        t, scale = as_torch(given.tensors), given.attrs["scale"]
        starts = given.tensors["cum_seq_lens_q"].tolist()
        for s, length in enumerate(given.tensors["seq_lens"].tolist()):
            first, end = starts[s], starts[s + 1]
            hidden = min(max(end - first - length, 0), end - first)
            if first + hidden == end:
                continue
            k, v = (rows(t[name], given.tensors["block_tables"][s], length) for name in ("k_cache", "v_cache"))
            seen = torch.arange(first + hidden, end) - end + length + 1
            q = t["q"][first + hidden : end].transpose(0, 1)
            t["out"][first + hidden : end] = attend(q, k, v, scale, seen, t["alibi_slopes"], 1e-6).transpose(0, 1)
        agree(operator, given, {"out": t["out"]})


def test_flash_attention() -> None:
    for operator, given in samples_of("flash_attention"):
        t, s = as_torch(given.tensors), given.tensors["q"].shape[2]
        for b, length in enumerate(given.tensors["total_kv_len"].tolist()):
            seen = torch.full((s,), length)
            if given.attrs["is_causal"]:
                seen = torch.arange(length - s, length).clamp(min=-1) + 1
            k, v = t["k"][b, :, :length], t["v"][b, :, :length]
            result = attend(t["q"][b], k, v, given.attrs["scale"], seen) if length else torch.zeros_like(t["out"][b])
            result[:, seen == 0] = 0
            t["out"][b] = result
        agree(operator, given, {"out": t["out"]})


def test_attention() -> None:
    for operator, given in samples_of("attention"):
        t, pos = as_torch(given.tensors), given.attrs["pos"]
        s, d = given.tensors["q"].shape[1:]
        for name in ("k", "v"):
            t[f"{name}_cache"][:, pos : pos + s] = t[name]
        k, v = (t[name][:, : pos + s] for name in ("k_cache", "v_cache"))
        if s:
            t["out"][...] = attend(t["q"], k, v, d**-0.5, torch.arange(s) + pos + 1).transpose(0, 1)
        agree(operator, given, {name: t[name] for name in ("out", "k_cache", "v_cache")})


# ---- topk and sampling ----------------------------------------------------------------------------------------


def test_topk() -> None:
    for operator, given in samples_of("topk"):
        x, k, dim = as_torch(given.tensors)["input"], given.attrs["k"], given.attrs["dim"]
        values, indices = torch.sort(x, dim=dim, descending=given.attrs["largest"], stable=True)
        got = run(operator, given, wide=False)
        np.testing.assert_array_equal(got["indices_output"], indices.narrow(dim, 0, k), given.name)
        np.testing.assert_array_equal(got["values_output"].astype(np.float64), values.narrow(dim, 0, k), given.name)


def test_topk_compare_sees_what_is_wrong() -> None:
    from infiniop.operators.topk import compare

    want = {"values_output": np.array([3.0, 3.0, 1.0]), "indices_output": np.array([2, 5, 0])}
    turned = {n: a[[1, 0, 2]] for n, a in want.items()}
    other = {**want, "indices_output": np.array([2, 4, 0])}
    for is_sorted in (True, False):
        attrs = {"dim": 0, "sorted": is_sorted}
        assert compare(want, want, {}, attrs) is None
        assert (compare(want, turned, {}, attrs) is None) is not is_sorted
        assert "indices_output" in (compare(want, other, {}, attrs) or "")
        assert "values_output" in (compare(want, {**want, "values_output": np.zeros(3)}, {}, attrs) or "")


def draw(logits: list[float], random_val: float, topp: float, topk: int, temperature: float) -> int:
    """InfiniCore's rules, step by step."""
    if random_val == 0 or topp == 0 or topk == 1 or temperature == 0:
        return logits.index(max(logits))
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    total, sums = 0.0, []
    for i in order:
        total += math.exp((logits[i] - logits[order[0]]) / temperature)
        sums.append(total)
    limit = topp * total
    if 0 < topk < len(sums):
        limit = min(limit, sums[topk - 1])
    limit = min(limit, total)
    for i, reached in zip(order, sums, strict=True):
        if reached >= random_val * limit:
            return i
    return order[-1]


def test_random_sample() -> None:
    for operator, given in samples_of("random_sample"):
        token = draw(given.tensors["probs"].astype(np.float64).tolist(), **given.attrs)
        got = run(operator, given, wide=False)["result"]
        assert got == np.int64(token).astype(got.dtype), given.name


def test_random_sample_batch() -> None:
    names = ("random_val", "topp", "topk", "temperature")
    for operator, given in samples_of("random_sample_batch"):
        got = run(operator, given, wide=False)["result"]
        for i, row in enumerate(zip(*(given.attrs[n].tolist() for n in names), strict=True)):
            token = draw(given.tensors["probs"][i].astype(np.float64).tolist(), *row)
            assert got[i] == np.int64(token).astype(got.dtype), f"{given.name}: {i}"


def test_random_sample_accepts_no_other_token() -> None:
    logits = np.array([0.0, 1.0, 2.0, 1.0])
    assert random_sample.wrong_draw(2, 2, logits, 0.3, 1.0, -1, 1.0) is None
    assert random_sample.wrong_draw(1, 2, logits, 0.3, 1.0, -1, 1.0)
    assert random_sample.wrong_draw(3, 1, logits, 0.0, 1.0, -1, 1.0)
    share = math.e**2 / (1 + 2 * math.e + math.e**2)
    assert random_sample.wrong_draw(1, 2, logits, share, 1.0, -1, 1.0) is None, "on the boundary"


# Known answers of Random123 (Salmon et al.): counter, key, result.
PHILOX = (
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "key", "words"), PHILOX)
def test_philox(counter: tuple[int, ...], key: tuple[int, ...], words: tuple[int, ...]) -> None:
    assert sample.philox(counter, key) == words


def test_uniform_numbers_depend_on_all_bits() -> None:
    numbers = {sample.uniform_number(1 << bit, 0) for bit in range(64)}
    numbers |= {sample.uniform_number(0, 1 << bit) for bit in range(64)}
    assert len(numbers) == 128
    assert all(0 <= u < 1 for u in numbers)
    assert sample.uniform_number(-1, -1) == sample.uniform_number(2**64 - 1, 2**64 - 1)


def warp(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Probabilities after transformers' warpers."""
    process = pytest.importorskip("transformers").generation.logits_process
    scores = process.TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits.astype(np.float64))[None])
    if top_k > 0:
        scores = process.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = process.TopPLogitsWarper(top_p)(None, scores)
    if min_p > 0:
        scores = process.MinPLogitsWarper(min_p)(None, scores)
    return torch.softmax(scores, -1)[0].numpy()


def requests(given: Sample) -> Iterator[tuple[int, tuple]]:
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "position")
    yield from enumerate(zip(*(given.tensors[n].tolist() for n in names), strict=True))


def test_sample_keeps_what_transformers_keeps() -> None:
    """Up to which of equal logits a cut keeps, and up to rounding at a cut."""
    compared = 0
    for _, given in samples_of("sample"):
        if given.name == "no-distribution" or given.tensors["logits"].shape[1] > 5000:
            continue
        for i, (temperature, top_k, top_p, min_p, *_) in requests(given):
            if temperature < 1e-3:
                continue
            logits = given.tensors["logits"][i]
            want = np.sort(warp(logits, temperature, top_k, top_p, min_p))
            shifts = (0.0, -1e-9, 1e-9)
            masses = [
                sample.weights(logits, temperature, top_k, top_p + a, min(min_p + b, 1.0))
                for a in shifts
                for b in shifts
            ]
            kept = [np.sort(m / m.sum()) for m in masses]
            assert any(np.allclose(k, want, rtol=1e-9, atol=1e-15) for k in kept), f"{given.name}: {i}"
            compared += 1
    assert compared > 1000


def test_a_cut_keeps_the_lower_of_equal_tokens() -> None:
    mass = sample.weights(np.array([1.0, 3.0, 2.0, 2.0, 3.0, 2.0]), 1.0, 0, 0.7, 0.0)
    assert np.flatnonzero(mass).tolist() == [1, 2, 4]
    assert np.flatnonzero(sample.weights(np.array([1.0, 3.0, 2.0, 2.0, 0.0]), 1.0, 2, 1.0, 0.0)).tolist() == [1, 2, 3]


def test_sample_inverts_the_cumulated_probabilities() -> None:
    for operator, given in samples_of("sample"):
        if given.name == "no-distribution":
            continue
        got = run(operator, given, wide=False)["tokens"]
        for i, (temperature, top_k, top_p, min_p, seed, position) in requests(given):
            logits = given.tensors["logits"][i].astype(np.float64)
            if temperature == 0:
                assert got[i] == logits.tolist().index(logits.max()), given.name
                continue
            mass = sample.weights(logits, temperature, top_k, top_p, min_p)
            goal, reached, token = sample.uniform_number(seed, position) * math.fsum(mass), 0.0, 0
            while reached + mass[token] <= goal:
                reached += mass[token]
                token += 1
            assert got[i] == token or abs(reached - goal) < 1e-9, f"{given.name}: {i}"


@pytest.mark.parametrize(("u", "token"), [(0.0, 0), (0.249, 0), (0.25, 2), (0.5, 3), (0.999, 5)])
def test_a_token_is_drawn_once_the_sum_exceeds(monkeypatch: pytest.MonkeyPatch, u: float, token: int) -> None:
    monkeypatch.setattr(sample, "uniform_number", lambda seed, position: u)
    logits = np.array([1.0, -np.inf, 1.0, 1.0, -np.inf, 1.0])
    assert sample.draw(logits, 1.0, 0, 1.0, 0.0, 0, 0) == token


def test_sample_draws_in_proportion() -> None:
    """The first 4096 positions of one request: shares within 3 % of the probabilities."""
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4]))
    drawn = [sample.draw(logits, 1.0, 0, 1.0, 0.0, 42, position) for position in range(4096)]
    np.testing.assert_allclose(np.bincount(drawn) / 4096, [0.1, 0.2, 0.3, 0.4], atol=0.03)


def test_sample_compare_accepts_no_other_token() -> None:
    given = next(s for _, s in samples_of("sample") if s.name == "F32-normal-16x257")
    want = run(sample.sample, given, wide=False)
    assert sample.compare(want, want, given.tensors, {}) is None
    for i in range(len(want["tokens"])):
        for wrong in ((want["tokens"][i] + 1) % 257, -1, 257):
            changed = want["tokens"].copy()
            changed[i] = wrong
            assert f"[{i}]" in (sample.compare(want, {"tokens": changed}, given.tensors, {}) or "")


# ---- errors ---------------------------------------------------------------------------------------------------

CHECKED: tuple[str, ...] = (
    "kv_caching", "paged_attention", "paged_attention_prefill", "flash_attention", "sample", "random_sample_batch",
    "linear", "linear_pack",
)  # fmt: skip


@pytest.mark.parametrize("name", CHECKED)
def test_references_refuse_bad_values_before_they_write(name: str) -> None:
    operator = all_operators()[name]
    by_schema = {c.argument for c in operator.constraints if c.at == "run"}
    refused = 0
    for given in operator.error_samples(np.random.default_rng(3)):
        if given.at == "create" or given.status != Status.BAD_PARAM or given.argument in by_schema:
            continue
        tensors = copies(given.tensors, wide=False)
        with pytest.raises(BadValue) as caught:
            operator.reference(**tensors, **given.attrs)
        assert caught.value.argument == given.argument, given.name
        for tensor in operator.tensors:
            if tensor.role is not Role.IN:
                np.testing.assert_array_equal(tensors[tensor.name], given.tensors[tensor.name], given.name)
        refused += 1
    assert refused


COMPARED: tuple[str, ...] = (
    "attention", "flash_attention", "gemm", "kv_caching", "linear", "linear_pack", "linear_packed_size",
    "paged_attention", "paged_attention_prefill", "random_sample", "random_sample_batch", "sample", "topk",
)  # fmt: skip


@pytest.mark.parametrize("name", COMPARED)
def test_samples_have_names_of_their_own_and_every_argument(name: str) -> None:
    operator = all_operators()[name]
    tensors, attrs = {t.name for t in operator.tensors}, {a.name for a in operator.attrs}
    makers: tuple[Callable, ...] = (operator.samples, operator.error_samples)
    for make in makers:
        names: set[str] = set()
        for given in make(np.random.default_rng(0)):
            assert given.name not in names
            names.add(given.name)
            assert set(given.tensors) <= tensors if make is operator.error_samples else set(given.tensors) == tensors
            assert set(given.attrs) == attrs
        assert names
