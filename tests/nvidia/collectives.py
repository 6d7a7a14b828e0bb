"""Run by test_collectives.py: two devices of the emulator, one thread, every collective through infiniccl."""

import numpy as np

import infiniop
from infiniop._library import ffi, lib
from infiniop.device import Device
from infiniop.errors import check
from infiniop.memory import NULL

F32, SUM, RANKS = lib.INFINI_DTYPE_F32, lib.INFINICCL_SUM, 2
comms = ffi.new("infinicclComm_t[2]")
check(lib.infinicclCommInitAll(Device("emulator").code, comms, RANKS, ffi.new("int[]", [0, 1])))


def there(*values: float):
    return [infiniop.asarray(np.array(v, np.float32), device=f"emulator:{r}") for r, v in enumerate(values)]


def address(tensor):
    return ffi.cast("void *", tensor.data_ptr)


def on_all_ranks(function) -> None:
    """function(rank, comm) for all ranks in one group."""
    check(lib.infinicclGroupStart(comms[0]))
    for rank in range(RANKS):
        check(function(rank, comms[rank]))
    check(lib.infinicclGroupEnd(comms[0]))


def numbers(tensors) -> list:
    return [t.to("cpu").numpy().tolist() for t in tensors]


def zeros(n: int):
    return there(*[[0] * n] * RANKS)


x, y = there([1, 2], [10, 20]), zeros(2)
on_all_ranks(lambda r, c: lib.infinicclAllReduce(address(x[r]), address(y[r]), 2, F32, SUM, c, NULL))
assert numbers(y) == [[11, 22]] * 2, numbers(y)

y = zeros(2)
on_all_ranks(lambda r, c: lib.infinicclBroadcast(address(x[r]), address(y[r]), 2, F32, 1, c, NULL))
assert numbers(y) == [[10, 20]] * 2, numbers(y)

y = zeros(4)
on_all_ranks(lambda r, c: lib.infinicclAllGather(address(x[r]), address(y[r]), 2, F32, c, NULL))
assert numbers(y) == [[1, 2, 10, 20]] * 2, numbers(y)

parts, y = ffi.new("size_t[]", [1, 2]), zeros(3)
on_all_ranks(lambda r, c: lib.infinicclAllGatherV(address(x[r]), address(y[r]), parts, RANKS, F32, c, NULL))
assert numbers(y) == [[1, 10, 20]] * 2, numbers(y)

z, y = there([1, 2, 3, 4], [10, 20, 30, 40]), zeros(2)
on_all_ranks(lambda r, c: lib.infinicclReduceScatter(address(z[r]), address(y[r]), 2, F32, SUM, c, NULL))
assert numbers(y) == [[11, 22], [33, 44]], numbers(y)

z, y = there([1, 2, 3], [10, 20, 30]), zeros(2)
on_all_ranks(lambda r, c: lib.infinicclReduceScatterV(address(z[r]), address(y[r]), parts, RANKS, F32, SUM, c, NULL))
assert numbers(y) == [[11, 0], [22, 33]], numbers(y)

y = zeros(2)
check(lib.infinicclGroupStart(comms[0]))
check(lib.infinicclSend(address(x[0]), 2, F32, 1, comms[0], NULL))
check(lib.infinicclRecv(address(y[1]), 2, F32, 0, comms[1], NULL))
check(lib.infinicclGroupEnd(comms[0]))
assert numbers(y) == [[0, 0], [1, 2]], numbers(y)

for i in range(RANKS):
    check(lib.infinicclCommDestroy(comms[i]))
print("all right")
