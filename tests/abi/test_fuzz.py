"""Wrong arguments never crash, and always give a status and a message."""

from __future__ import annotations

import os

import pytest

from infiniop.conformance.fuzz import Fuzzer
from infiniop.operators import all_operators


def test_every_typed_function_survives_wrong_arguments():
    report = Fuzzer(seed=1).run(100_000)
    failed = {function for function, status in report.statuses if status != "SUCCESS"}
    for operator in all_operators().values():
        assert f"infiniopCreate{operator.symbol}Descriptor" in failed
        assert (f"infiniop{operator.symbol}", "SUCCESS") in report.statuses


@pytest.mark.full
def test_ten_million_calls():
    seed = int(os.environ.get("INFINIOP_FUZZ_SEED", "2"))
    calls = int(os.environ.get("INFINIOP_FUZZ_CALLS", "10_000_000"))
    assert Fuzzer(seed).run(calls, lambda n: print(f"{n:,} calls", flush=True)).calls >= calls
