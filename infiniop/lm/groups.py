"""`CommunicationGroup`: collectives between ranks, over torch.distributed's process groups."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

import infiniop

if TYPE_CHECKING:
    import torch

_MEETING = timedelta(seconds=120)  # for all members to connect
_PATIENCE = timedelta(days=30)  # ranks wait for work as long as it takes; one that dies closes its connections


class RankError(RuntimeError):
    """Another rank has failed or gone: the job is over."""


class CommunicationGroup:
    """Ranks that exchange tensors: `infiniop.Tensor`, NumPy or torch, changed in place.

    Gloo on the CPU, NCCL on NVIDIA, which takes tensors of the device alone. Memory of a device that torch does not
    know goes through the host. Every call raises `RankError` when a member has gone.
    """

    def __init__(self, store: Any, name: str, rank: int, size: int, device: str = "cpu"):
        """`store`: a torch.distributed store that all members share; `name` tells groups on it apart."""
        import torch.distributed as dist

        self.rank, self.size = rank, size
        self._nccl = device == "nvidia"
        prefixed = dist.PrefixStore(name, store)
        with _failing(f"the ranks of group {name!r} did not meet"):
            self._group: Any
            if self._nccl:
                self._group = dist.ProcessGroupNCCL(prefixed, rank, size, dist.ProcessGroupNCCL.Options())
            else:
                self._group = dist.ProcessGroupGloo(prefixed, rank, size, _MEETING)
                self._group._set_default_timeout(_PATIENCE)

    def all_reduce(self, tensor: Any) -> None:
        """The sum over all ranks, to every rank."""
        self._run(tensor, lambda t: self._group.allreduce([t]))

    def all_gather(self, tensor: Any) -> list[np.ndarray]:
        """Every rank's tensor (all of one shape and dtype), in the order of ranks, on the host."""
        import torch

        own = _as_torch(tensor, on_device=self._nccl)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _failing("all_gather"):
            self._group.allgather([parts], [own.contiguous()]).wait()
        return [infiniop.asarray(part).to("cpu").numpy() for part in parts]

    def broadcast(self, tensor: Any, source: int = 0) -> None:
        """Rank `source`'s values, to every rank."""
        import torch.distributed as dist

        options = dist.BroadcastOptions()
        options.rootRank = source
        self._run(tensor, lambda t: self._group.broadcast([t], options))

    def send(self, tensor: Any, target: int) -> None:
        self._run(tensor, lambda t: self._group.send([t], target, 0), comes_back=False)

    def recv(self, tensor: Any, source: int) -> None:
        self._run(tensor, lambda t: self._group.recv([t], source, 0))

    def broadcast_object(self, value: Any = None, source: int = 0) -> Any:
        """Any value that can be pickled: rank `source`'s, to every rank."""
        data = np.frombuffer(pickle.dumps(value), np.uint8).copy() if self.rank == source else np.empty(0, np.uint8)
        size = np.array([len(data)], np.int64)
        self.broadcast(size, source)
        data = data if self.rank == source else np.empty(int(size[0]), np.uint8)
        self.broadcast(data, source)
        return value if self.rank == source else pickle.loads(data.tobytes())

    def _run(self, tensor: Any, operation: Any, comes_back: bool = True) -> None:
        theirs = _as_torch(tensor, on_device=self._nccl)
        flat = theirs.contiguous()
        with _failing("a collective"):
            operation(flat).wait()
        if not comes_back:
            return
        if flat.data_ptr() != theirs.data_ptr():
            theirs.copy_(flat)
        if isinstance(tensor, infiniop.Tensor) and not tensor.device.is_cpu and not self._nccl:
            tensor.copy_(infiniop.asarray(theirs).to(tensor.device))


def _as_torch(tensor: Any, on_device: bool = False) -> torch.Tensor:
    """The same memory for torch, where torch can reach it; else a copy on the host."""
    import torch

    if isinstance(tensor, torch.Tensor):
        return tensor
    if isinstance(tensor, infiniop.Tensor):
        return torch.from_dlpack(tensor if on_device or tensor.device.is_cpu else tensor.to("cpu"))
    return torch.from_dlpack(infiniop.from_numpy(tensor))


class _failing:
    """torch's errors inside are `RankError`s."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, RankError):
            raise RankError(f"{self._what} failed: {str(error).splitlines()[0]}") from error
