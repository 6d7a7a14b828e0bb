"""A program: a device that nothing else knows, with the operators that the engine cannot do without and no other, runs
a model. Prints the tokens of `generate` as JSON. Arguments: model folder, token ids as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np

import infiniop
from infiniop.lm import AutoLlamaModel, PagedKVCacheConfig
from infiniop.lm.operators import ALL_OPERATORS, OPTIONAL_OPERATORS
from infiniop.operators import all_operators
from infiniop.python_runtime import PythonRuntime


class _Memory:
    def __init__(self, tensor: infiniop.Tensor):
        size = tensor.dtype.itemsize
        self.__array_interface__ = {
            "shape": tensor.shape, "strides": tuple(size * s for s in tensor.strides), "typestr": f"|V{size}",
            "data": (tensor.data_ptr, False), "version": 3,
        }  # fmt: skip


def on_arrays(reference):
    """A reference as a kernel of the device, whose memory happens to be the host's."""

    def view(value):
        if not isinstance(value, infiniop.Tensor):
            return value
        return np.asarray(_Memory(value)).view(value.dtype.numpy)

    return lambda **arguments: reference(**{name: view(value) for name, value in arguments.items()})


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
    needed = ALL_OPERATORS - set(OPTIONAL_OPERATORS)
    kernels = {name: on_arrays(all_operators()[name].reference) for name in needed}
    infiniop.PythonBackend("island", device="island", runtime=PythonRuntime(), kernels=kernels).register()
    model = AutoLlamaModel.from_pretrained(sys.argv[1], device="island", dtype="float32")
    devices = {str(tensor.device) for tensor in model.state_dict().values()}
    launched = count_replays()
    options = {"temperature": 0.7, "top_k": 30, "seed": 5}
    rows = json.loads(sys.argv[2])
    greedy = model.generate(rows, 6, cache_config=PagedKVCacheConfig(num_blocks=32, block_size=4)).token_ids
    sampled = model.generate(rows, 6, **options).token_ids
    print(json.dumps({"devices": sorted(devices), "greedy": greedy, "sampled": sampled, "replays": len(launched)}))


main()
