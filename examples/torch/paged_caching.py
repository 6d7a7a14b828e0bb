"""Paged caching from torch, eager and compiled: two tokens go to their slots, a third is padding."""

import torch

import infiniop.torch  # noqa: F401 - registers torch.ops.infiniop

BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_SIZE = 4, 2, 8, 16


def store(k_cache, v_cache, k, v, slot_mapping):
    """Scale the keys by torch, write them by infiniop, and say how many rows of the cache are in use."""
    torch.ops.infiniop.paged_caching(k_cache, v_cache, k * 0.5, v, slot_mapping)
    return (k_cache != 0).any(-1).all(1).sum()


def main() -> None:
    k = torch.ones(3, KV_HEADS, HEAD_SIZE)
    slots = torch.tensor([3, 17, -1])  # block 0 at 3, block 2 at 1, nowhere
    for name, function in (("eager", store), ("compiled", torch.compile(store, fullgraph=True))):
        caches = [torch.zeros(BLOCKS, KV_HEADS, BLOCK_SIZE, HEAD_SIZE) for _ in range(2)]
        used = function(*caches, k, 2 * k, slots)
        blocks, rows = caches[1].any(-1).any(1).nonzero(as_tuple=True)
        places = ", ".join(f"block {b} row {r}" for b, r in zip(blocks.tolist(), rows.tolist(), strict=True))
        print(
            f"{name}: {used.item()} rows in use: {places}; key {caches[0].max().item()}, value {caches[1].max().item()}"
        )


if __name__ == "__main__":
    main()
