"""A few small samples of every operator, or of one, for a process under a sanitizer.

python sanitized.py BACKEND SAMPLES [OPERATOR]
"""

import sys

import numpy as np

from infiniop.conformance import runner
from infiniop.conformance.call import Declined
from infiniop.conformance.subject import subject
from infiniop.operators import all_operators

backend, count, *names = sys.argv[1:]
wrong, ran = [], 0
for operator in all_operators().values():
    if (names and operator.name not in names) or not subject(backend).has(operator.name):
        continue
    small = [
        s for s in operator.samples(np.random.default_rng(1)) if runner.elements(s) < 4000 and "large" not in s.tags
    ]
    for sample in small[:: max(1, len(small) // int(count))]:
        try:
            wrong += [f"{operator.name} {sample.name}: {f}" for f in runner.run_sample(operator, sample, backend)]
            ran += 1
        except Declined:
            continue
print("\n".join(wrong) or f"clean: {ran} samples")
sys.exit(bool(wrong))
