"""Run by test_emulator.py under AddressSanitizer: a few small samples of every operator."""

import numpy as np

from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators

wrong, ran = [], 0
for operator in all_operators().values():
    if not subject("emulator").has(operator.name):
        continue
    small = [
        s for s in operator.samples(np.random.default_rng(1)) if runner.elements(s) < 4000 and "large" not in s.tags
    ]
    for sample in small[:: max(1, len(small) // 25)]:
        try:
            wrong += [f"{operator.name} {sample.name}: {f}" for f in runner.run_sample(operator, sample, "emulator")]
            ran += 1
        except Declined:
            continue
print("\n".join(wrong) or f"clean: {ran} samples")
