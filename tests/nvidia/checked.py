"""Run by test_runtime.py with INFINIOP_CHECKED=1: error samples whose fault lies inside a tensor."""

import json

import numpy as np

from infiniop.conformance import runner
from infiniop.conformance.call import Failed, run
from infiniop.conformance.memory import Arguments
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators

tested = subject("emulator")
accepting, wrong = set(), []
for operator in all_operators().values():
    if not tested.has(operator.name):
        continue
    for sample in operator.error_samples(np.random.default_rng(2)):
        if not runner.is_inside_a_tensor(operator, sample):
            continue
        where = f"{operator.name} {sample.name}"
        wrong += [f"{where}: {failure}" for failure in runner.run_error_sample(operator, sample, "emulator")]
        try:
            run(operator, tested, Arguments(operator, sample.tensors), sample.attrs)
            accepting.add(operator.name)
        except Failed:
            continue
print(json.dumps({"accepting": sorted(accepting), "wrong": wrong}))
