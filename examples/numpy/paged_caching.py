"""Writes three tokens into a paged KV cache that NumPy holds.

It prints:

    block 0: [7. 8. 0. 0.]
    block 1: [0. 0. 0. 0.]
    block 2: [0. 0. 3. 4.]
    the same memory: True
    slot_mapping: expected values below 6, got 6 at [0]
    k_cache: expected writable memory, got a read-only array
"""

import numpy as np

import infiniop
from infiniop import ops

nblocks, nkvh, block_size, dh = 3, 1, 2, 2
k_cache = np.zeros((nblocks, nkvh, block_size, dh), np.float32)
v_cache = np.zeros_like(k_cache)
k = np.array([3, 4, 5, 6, 7, 8], np.float32).reshape(3, nkvh, dh)
slot_mapping = np.array([5, -1, 0])  # slot = block * block_size + row; a negative one is padding

# The operator writes the arrays that it is given and returns them.
changed, _ = ops.paged_caching(k_cache, v_cache, k, k, slot_mapping)
for block in range(nblocks):
    print(f"block {block}:", k_cache[block].ravel())
print("the same memory:", changed is k_cache)

# Failures are exceptions that name the argument.
try:
    ops.paged_caching(k_cache, v_cache, k, k, np.array([6, -1, 0]))
except infiniop.errors.BadParamError as error:
    print(f"{error.argument}: expected {error.expected}, got {error.got}")

k_cache.flags.writeable = False
try:
    ops.paged_caching(k_cache, v_cache, k, k, slot_mapping)
except infiniop.errors.BadParamError as error:
    print(f"{error.argument}: expected {error.expected}, got {error.got}")
