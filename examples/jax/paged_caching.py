"""Writes three tokens into a paged KV cache under `jax.jit`. The caches are donated, so that nothing is copied.

It prints:

    block 0: [7. 8. 0. 0.]
    block 1: [0. 0. 0. 0.]
    block 2: [0. 0. 3. 4.]
    the same memory: True
    slot_mapping: expected [ntok], got [2] (ntok is 3 elsewhere, 2 here)
"""

import jax
import jax.numpy as jnp

import infiniop
import infiniop.jax

nblocks, nkvh, block_size, dh = 3, 1, 2, 2
k_cache = jnp.zeros((nblocks, nkvh, block_size, dh))
v_cache = jnp.zeros_like(k_cache)
k = jnp.array([3.0, 4, 5, 6, 7, 8]).reshape(3, nkvh, dh)
slot_mapping = jnp.array([5, -1, 0])  # slot = block * block_size + row; a negative one is padding


@jax.jit(donate_argnums=(0, 1))
def step(k_cache, v_cache, k, v, slot_mapping):
    return infiniop.jax.paged_caching(k_cache, v_cache, k, v, slot_mapping)


before = k_cache.unsafe_buffer_pointer()
k_cache, v_cache = step(k_cache, v_cache, k, k, slot_mapping)
for block in range(nblocks):
    print(f"block {block}:", k_cache[block].ravel())
print("the same memory:", k_cache.unsafe_buffer_pointer() == before)

# What shapes and dtypes show is refused while JAX traces.
try:
    step(k_cache, v_cache, k, k, slot_mapping[:2])
except infiniop.errors.TensorShapeError as error:
    print(f"{error.argument}: expected {error.expected}, got {error.got}")
