"""Ranks: the processes that a model is spread over. Rank 0 is the caller's own; it starts the others and tells them
what to do. Under torchrun, which has started them all, the others wait for rank 0 where they would make the model."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import infiniop

from .distributed import DistConfig, check_split
from .groups import CommunicationGroup, RankError

if TYPE_CHECKING:
    from .config import LlamaConfig
    from .runner import CausalLM

logger = logging.getLogger(__name__)

_MEETING = timedelta(seconds=120)  # for all ranks to start
_GRACE_SECONDS = 5.0  # for a rank to end by itself


@dataclass(frozen=True)
class Place:
    """Where a rank stands: rank = pp_rank * tp_size + tp_rank. The first stage embeds, the last has the output."""

    tp_rank: int = 0
    tp_size: int = 1
    pp_rank: int = 0
    pp_size: int = 1

    @staticmethod
    def of(rank: int, config: DistConfig) -> Place:
        return Place(rank % config.tp_size, config.tp_size, rank // config.tp_size, config.pp_size)

    @property
    def is_first(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    @property
    def has_output(self) -> bool:
        """Whether this rank computes logits."""
        return self.is_last and self.tp_rank == 0

    def layers(self, count: int) -> range:
        """The layers of this stage, of `count`: as even as can be, the first stages take what is left over."""
        base, more = divmod(count, self.pp_size)
        start = self.pp_rank * base + min(self.pp_rank, more)
        return range(start, start + base + (self.pp_rank < more))

    def most_layers(self, count: int) -> int:
        """The layers of the stage that has most."""
        return -(-count // self.pp_size)


@dataclass(frozen=True)
class Parallel:
    """What a model on several ranks needs: its place, the ranks that share its layers (`tp`), and all (`world`)."""

    place: Place
    tp: CommunicationGroup
    world: CommunicationGroup

    @property
    def previous(self) -> int:
        return self.world.rank - self.place.tp_size

    @property
    def next(self) -> int:
        return self.world.rank + self.place.tp_size

    @property
    def output(self) -> int:
        """The rank that computes logits."""
        return (self.place.pp_size - 1) * self.place.tp_size


def _join(store: Any, rank: int, config: DistConfig, device: str) -> tuple[Parallel, CommunicationGroup]:
    """This rank's groups; the second carries commands."""
    place = Place.of(rank, config)
    commands = CommunicationGroup(store, "commands", rank, config.world_size)
    world = CommunicationGroup(store, "world", rank, config.world_size, device)
    tp = CommunicationGroup(store, f"tp{place.pp_rank}", place.tp_rank, place.tp_size, device)
    return Parallel(place, tp, world), commands


class Ranks:
    """Rank 0's hold on the others. `command` makes each of them call a method of its model."""

    def __init__(self, config: DistConfig, device: str, make: Callable[..., CausalLM], arguments: tuple[Any, ...]):
        """`make(parallel, *arguments)` makes a rank's model; it is pickled by its name."""
        import torch.distributed as dist

        self._config = config
        self._closed = False
        self._processes: list[subprocess.Popen[bytes]] = []
        if _launched():
            store = _meeting_point(0, config)
        else:
            store = dist.TCPStore("127.0.0.1", 0, config.world_size, True, _MEETING, wait_for_workers=False)
            self._processes = [self._start(rank, store.port, device) for rank in range(1, config.world_size)]
        _LIVE.add(self)
        with self.guarded():
            self._await(store)
            self.parallel, self._commands = _join(store, 0, config, device)
        self.command("make", make, arguments)

    def _start(self, rank: int, port: int, device: str) -> subprocess.Popen[bytes]:
        arguments = [str(rank), str(port), device, repr(self._config.tp_device_ids), str(self._config.pp_size)]
        env = dict(os.environ)
        cpus = len(os.sched_getaffinity(0))
        env.setdefault("INFINIOP_NUM_THREADS", str(max(1, cpus // self._config.world_size)))
        # The pipe tells the other process when this one is gone, however it went.
        return subprocess.Popen([sys.executable, "-m", "infiniop.lm.ranks", *arguments], stdin=subprocess.PIPE, env=env)

    def command(self, method: str, *arguments: Any) -> None:
        """Every other rank does this next."""
        self.check()
        with self.guarded():
            self._commands.broadcast_object((method, arguments))

    def gather(self, own: Any) -> list[Any]:
        """What every rank gives after a command, in their order."""
        with self.guarded():
            return [own] + [self._commands.broadcast_object(source=rank) for rank in range(1, self._config.world_size)]

    @contextlib.contextmanager
    def guarded(self) -> Any:
        """A collective that fails inside ends the job, with an error that names the rank that is to blame. So does
        whatever else goes wrong in rank 0 (Ctrl-C, too): the others would wait for what does not come."""
        try:
            yield
        except RankError as error:
            raise self._failed(error) from error
        except BaseException:
            self._end()
            raise

    def check(self) -> None:
        if self._closed:
            raise RankError("the ranks of this model have ended")

    def _failed(self, error: RankError) -> RankError:
        """Finds out who has died; ends all others."""
        end = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < end and all(p.poll() is None for p in self._processes) and self._processes:
            time.sleep(0.02)
        time.sleep(0.1)  # a rank that failed because of another ends a little later than that one
        dead = [(rank, p.returncode) for rank, p in enumerate(self._processes, 1) if p.poll() is not None]
        first = min(dead, key=lambda pair: pair[1] == _FOLLOWED, default=None)
        self._end()
        if first is None:
            return RankError(f"a rank has failed: {error}")
        how = f"killed by signal {-first[1]}" if first[1] < 0 else f"exit status {first[1]}, its message is above"
        return RankError(f"rank {first[0]} of {self._config.world_size} has died ({how}): the job is over")

    def _await(self, store: Any) -> None:
        """Until all ranks are there: one that dies before would be waited for in vain."""
        end = time.monotonic() + _MEETING.total_seconds()
        while not store.check([_here(rank) for rank in range(1, self._config.world_size)]):
            if any(p.poll() is not None for p in self._processes):
                raise RankError("it did not start")
            if time.monotonic() > end:
                raise RankError(f"not all ranks have started within {_MEETING.total_seconds():.0f} seconds")
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the other ranks."""
        if not self._closed:
            with contextlib.suppress(RankError):
                self._commands.broadcast_object(("stop", ()))
            self._end()

    def __del__(self) -> None:
        if hasattr(self, "_commands"):
            self.close()

    def _end(self) -> None:
        self._closed = True
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
        end = time.monotonic() + _GRACE_SECONDS
        for process in self._processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def rank_device(device: Any, ranks: DistConfig, parallel: Parallel | None) -> infiniop.Device:
    """A rank's own device. On the CPU ranks share the one; elsewhere `tp_device_ids` say which, each stage on devices
    after those of the stage before."""
    found = infiniop.Device(device)
    if found.is_cpu or (parallel is None and ranks == DistConfig()):
        return found
    place = Place() if parallel is None else parallel.place
    shift = place.pp_rank * (max(ranks.tp_device_ids) + 1)
    return infiniop.Device(found.name, ranks.tp_device_ids[place.tp_rank] + shift)


def spread(
    config: LlamaConfig, ranks: DistConfig, device: str, make: Callable[..., CausalLM], *arguments: Any
) -> CausalLM:
    """The model that `make(parallel, *arguments)` makes in every rank; alone (`parallel` None) where there is one.

    Raises `ValueError` when the model cannot be spread so, `RankError` when a rank dies.
    """
    check_split(config, ranks)
    if ranks.world_size == 1:
        return make(None, *arguments)
    if importlib.util.find_spec("torch") is None:
        raise ImportError("a model on several ranks needs torch: pip install 'infiniop[torch]'")
    follow_if_launched(ranks, device)
    leader = Ranks(ranks, device, make, arguments)
    try:
        model = make(leader.parallel, *arguments)
    except BaseException:
        leader.close()
        raise
    model.lead(leader)
    return model


_LIVE: weakref.WeakSet[Ranks] = weakref.WeakSet()
_FOLLOWED = 3  # exit status of a rank that ends because another has


@atexit.register
def _close_all() -> None:
    for ranks in list(_LIVE):
        ranks.close()


# ---------------------------------------------------------------------- the other ranks


def _here(rank: int) -> str:
    """The key that says that a rank has started."""
    return f"here/{rank}"


def _launched() -> bool:
    """Whether torchrun, or something like it, has started all ranks."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def _meeting_point(rank: int, config: DistConfig) -> Any:
    """The store of ranks that were launched together."""
    import torch.distributed as dist

    if int(os.environ["WORLD_SIZE"]) != config.world_size:
        raise ValueError(f"{os.environ['WORLD_SIZE']} ranks were launched, {config!r} needs {config.world_size}")
    store, *_ = next(iter(dist.rendezvous("env://", rank, config.world_size, timeout=_MEETING)))
    return dist.PrefixStore("infiniop", store)


def follow_if_launched(config: DistConfig, device: str) -> None:
    """In a rank other than 0 of those launched together: does what rank 0 says, and ends the process with it."""
    if _launched() and (rank := int(os.environ["RANK"])) > 0:
        _follow(_meeting_point(rank, config), rank, config, device)


def _follow(store: Any, rank: int, config: DistConfig, device: str) -> None:
    status = 1
    try:
        store.set(_here(rank), "")
        parallel, commands = _join(store, rank, config, device)
        model: Any = None
        while True:
            method, arguments = commands.broadcast_object()
            if method == "stop":
                status = 0
                break
            if method == "make":
                make, rest = arguments
                model = make(parallel, *rest)
            elif (answer := getattr(model, method)(*arguments)) is not None:
                for source in range(1, config.world_size):
                    commands.broadcast_object(answer if source == rank else None, source)
    except RankError as error:
        logger.error("rank %d: %s", rank, error)
        status = _FOLLOWED
    except BaseException:
        sys.stderr.write(f"rank {rank} of {config.world_size}:\n{traceback.format_exc()}")
    finally:
        sys.stderr.flush()
        os._exit(status)  # threads of gloo would wait for ranks that are gone


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(_FOLLOWED)


def _main(rank: str, port: str, device: str, ids: str, stages: str) -> None:
    import ast

    import torch.distributed as dist

    threading.Thread(target=_end_with_parent, daemon=True).start()
    config = DistConfig(tp_device_ids=ast.literal_eval(ids), pp_size=int(stages))
    store = dist.TCPStore("127.0.0.1", int(port), config.world_size, False, _MEETING)
    _follow(store, int(rank), config, device)


if __name__ == "__main__":
    _main(*sys.argv[1:])
