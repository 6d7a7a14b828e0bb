"""A program: the demonstration model on an OpenCL device and on the CPU. Prints JSON: tokens, replays, devices."""

from __future__ import annotations

import json
import sys

import infiniop
from infiniop.lm import AutoLlamaModel, PagedKVCacheConfig, StaticKVCacheConfig, load_tokenizer

PROMPTS = ["def read_lines(path):", "import os\n", "class Queue:\n    def __init__(self"]


def count_replays() -> list[object]:
    """An entry for each recorded step that is launched from now on."""
    launched: list[object] = []
    launch = infiniop.Graph.launch

    def counted(graph, stream=None):
        launched.append(graph)
        launch(graph, stream)

    infiniop.Graph.launch = counted
    return launched


def main() -> None:
    path, launched = sys.argv[1], count_replays()
    tokenizer = load_tokenizer(path)
    for device in ("opencl", "cpu"):
        launched.clear()
        model = AutoLlamaModel.from_pretrained(path, device=device, dtype="float32")
        rows = {
            "paged": model.generate(
                PROMPTS, 24, tokenizer, temperature=0.0, cache_config=PagedKVCacheConfig(num_blocks=64, block_size=8)
            ),
            "static": model.generate(
                PROMPTS[:1], 24, tokenizer, temperature=0.0, cache_config=StaticKVCacheConfig(1, 128)
            ),
            "sampled": model.generate(PROMPTS, 24, tokenizer, temperature=0.8, top_k=40, top_p=0.9, seed=3),
        }
        answer = {
            "tokens": {name: out.token_ids for name, out in rows.items()},
            "replays": len(launched),
            "devices": sorted({str(tensor.device) for tensor in model.state_dict().values()}),
        }
        print(json.dumps(answer))


main()
