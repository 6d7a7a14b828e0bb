"""Attributes that are arrays in host memory: C cannot see how long they are, Python can."""

from __future__ import annotations

import numpy as np
import pytest

import infiniop
from infiniop import ops
from infiniop.errors import BadParamError

ROWS = {"random_val": [0.1, 0.2, 0.3], "topp": [0.9] * 3, "topk": [5] * 3, "temperature": [1.0] * 3, "batch_size": 3}
LOGITS = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)


@pytest.mark.parametrize("name", ["random_val", "topp", "topk", "temperature"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_wrong_lengths_are_refused(name: str, count: int) -> None:
    wrong = {**ROWS, name: [1] * count}
    with pytest.raises(BadParamError, match=rf"{name}.*3.*{count}"):
        ops.random_sample_batch(LOGITS, **wrong)
    tokens = np.zeros(3, np.int32)
    with infiniop.descriptor("random_sample_batch", result=tokens, probs=LOGITS, **ROWS) as descriptor:
        with pytest.raises(BadParamError, match=rf"{name}.*3.*{count}"):
            descriptor.calculate(**{name: [1] * count})
        descriptor.calculate()
    np.testing.assert_array_equal(tokens, ops.random_sample_batch(LOGITS, **ROWS))


def test_rows_are_drawn_as_single_calls_draw() -> None:
    tokens = ops.random_sample_batch(LOGITS, **ROWS)
    for i, token in enumerate(tokens):
        row = {name: values[i] for name, values in ROWS.items() if name != "batch_size"}
        assert ops.random_sample(LOGITS[i], **row) == token
