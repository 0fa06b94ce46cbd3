"""Several processes that fit together, as `torchrun` starts them: their rows, what they exchange, which one writes.

All workers have the same parameters and the same random state, and so take the same decisions without communicating.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ppl_vae.core.errors import InputError, PplVaeError, RunError
from ppl_vae.core.process import random_state, set_random_state

T = TypeVar("T")

#: Seconds that a worker has to stop at the same step as the others after a signal.
GRACE = 10.0


class WorkerLostError(RunError):
    """A worker is gone, and the others cannot go on."""


class Shard(NamedTuple):
    """The rows of a batch that one worker has."""

    start: int
    stop: int
    total: int

    @classmethod
    def whole(cls, total: int) -> Shard:
        """Return all rows."""
        return cls(0, total, total)

    @property
    def size(self) -> int:
        """How many there are."""
        return self.stop - self.start


class Workers:
    """The workers of a fit, seen from one of them; by default one that is alone.

    Attributes
    ----------
    rank, count : int
        Which one this is, and how many there are.
    ours : bool
        Whether the process group was made here, rather than by the program.
    stop : signal.Signals, optional
        The signal this worker was sent and has not yet acted on.
    """

    def __init__(self, rank: int = 0, count: int = 1, *, ours: bool = True) -> None:
        self.rank, self.count, self.ours = rank, count, ours
        self.stop: signal.Signals | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and messages."""
        return self.rank == 0

    def shard(self, total: int) -> Shard:
        """Return this worker's rows of a batch of `total`: equally many for all, up to one more for the first ones."""
        size, more = divmod(total, self.count)
        start = self.rank * size + min(self.rank, more)
        return Shard(start, start + size + (self.rank < more), total)

    def device(self, name: str) -> str:
        """Return the device that `name` stands for here: with ``"auto"`` and ``"cuda"`` each worker has its own GPU.

        GPUs are identified by their UUID, not by their number: under SLURM each worker may see one GPU, its own, as
        number 0; under `torchrun` all see all of a machine. All workers must call it.

        Raises
        ------
        InputError
            On all workers, if two would have the same GPU, or one has none.
        """
        if name == "auto":
            name = os.environ.get("PPL_VAE_DEVICE") or name
        if self.count == 1:
            return name
        seen = self.gather(_gpus() if name.startswith(("auto", "cuda")) else [])
        if not any(seen):
            return name
        any_gpu = name in ("auto", "cuda")
        if not any_gpu and not self.ours:
            return name
        # Workers that see the same GPUs take them by rank.
        places = [seen[:rank].count(gpus) if any_gpu else int(name[5:]) for rank, gpus in enumerate(seen)]
        taken = [gpus[place] for gpus, place in zip(seen, places, strict=True) if place < len(gpus)]
        if len(set(taken)) == self.count:
            return f"cuda:{places[self.rank]}"
        gpus = len(set(itertools.chain(*seen)))
        raise InputError(
            "device",
            expected=f"a GPU for each of the {self.count} workers that fit together",
            got=f"{name!r} and {gpus}",
            hint=f"{gpus} workers (torchrun --nproc-per-node …) with device='auto', or device='cpu'",
        )

    def sum(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over the workers, and return it."""
        if self.count > 1:
            with self._together():
                dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Return what each worker gives, by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(values, value)
        return values

    def first(self, make: Callable[[], T]) -> T:
        """Return on all workers what `make` returns on the first; its errors are raised on all.

        Tensors in it should be on the CPU.
        """
        if self.count == 1:
            return make()
        box: list[Any] = [None]
        if self.is_first:
            try:
                box = [(make(), None)]
            except PplVaeError as error:
                box = [(None, error)]
        with self._together():
            dist.broadcast_object_list(box, src=0)
        value, failure = box[0]
        if failure is not None:
            raise failure
        return value

    def align(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        """Synchronise the workers: random state and `tensors` of the first one become those of all.

        Raises
        ------
        KeyboardInterrupt
            On all workers, if one was asked to stop.
        """
        if self.count == 1:
            return
        state, values = self.first(lambda: (random_state(device), [tensor.detach().cpu() for tensor in tensors]))
        set_random_state(state, device)
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        self.follow()

    def follow(self) -> None:
        """Stop all workers at once if one was asked to.

        Raises
        ------
        KeyboardInterrupt
            On all of them.
        """
        if any(self.gather(self.stop)):
            self.interrupt()

    def interrupt(self) -> None:
        """Act on the signal that this worker was sent."""
        self.stop = None
        raise KeyboardInterrupt

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Run something that needs all workers."""
        try:
            yield
        except RuntimeError as error:
            raise WorkerLostError(
                f"workers: expected all {self.count}; got one that is gone; "
                "try the same fit with resume=True, from its last checkpoint"
            ) from error


def _gpus() -> list[str]:
    """Return a unique identifier of each GPU that this process sees, by number."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [str(torch.cuda.get_device_properties(index).uuid) for index in range(count)]


def promised() -> int:
    """Return how many workers the environment promises."""
    return int(os.environ.get("WORLD_SIZE") or 1)


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the other workers, where `torchrun` (or the program itself, in `torch.distributed`) has started several.

    An existing process group is used; otherwise one is made, and destroyed at the end. With several workers, SIGINT and
    SIGTERM stop all of them at the same step, only the first one warns, and signal handlers and filters are restored
    afterwards.

    Raises
    ------
    InputError
        If the environment announces several workers, but not the address at which they meet.
    RunError
        If they do not meet.
    """
    there = dist.is_available() and dist.is_initialized()
    if not there and promised() == 1:
        yield Workers()
        return
    hook = sys.excepthook  # torch replaces it by its own, which wraps the last one
    if not there:
        _meet(promised())
    try:
        workers = Workers(dist.get_rank(), dist.get_world_size(), ours=not there)
        with _stoppable(workers), _quiet(workers):
            yield workers
    finally:
        if not there:
            dist.destroy_process_group()
            sys.excepthook = hook


#: How long a worker waits for another in a step before it counts as lost, if nothing shows it earlier: gloo sees a
#: connection that closes, `torchrun` ends the others. NCCL sees neither, and torch ends the process after this time.
LOST = timedelta(minutes=10)

#: Numbers the groups of this process, so that no two use the same store prefix.
_meetings = itertools.count()


def _meet(count: int) -> None:
    """Make the process group that the environment describes."""
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise InputError(
            f"WORLD_SIZE={count}",
            expected="RANK, MASTER_ADDR and MASTER_PORT beside it in the environment",
            got=f"no {', '.join(missing)}",
            hint="torchrun --nproc-per-node 2 …, or no WORLD_SIZE",
        )
    # Its functions have the group as a default argument. Imported by a recording while there is one, they would keep it
    # and its threads beyond the interpreter's end, which ends in an abort.
    importlib.import_module("torch.distributed.nn.functional")
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, rank, _ = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"ppl_vae/{next(_meetings)}", store)
        backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
        dist.init_process_group(backend, timeout=LOST, store=store, rank=rank, world_size=count)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"workers: expected {count} to meet; got {' '.join(str(error).split())[:160]}; try torchrun --standalone"
        ) from error


def _quiet(workers: Workers) -> AbstractContextManager[Any]:
    """Silence warnings on all workers but the first."""
    return nullcontext() if workers.is_first else warnings.catch_warnings(action="ignore")


@contextmanager
def _stoppable(workers: Workers) -> Iterator[None]:
    """Store SIGINT and SIGTERM in `workers` rather than stop at once; raise at the end one that came too late.

    A worker that meets no other within `GRACE` seconds of a signal stops by itself: torchrun ends the others with
    SIGTERM once one is lost, and kills after 30 s what a long computation keeps from following.
    """
    if workers.count == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return

    again: threading.Timer | None = None
    due = 0.0

    def note(number: int, _: Any) -> None:
        nonlocal again, due
        followed, workers.stop = workers.stop is None, signal.Signals(number)
        if again is None:
            due = time.monotonic() + GRACE
            again = threading.Timer(GRACE, signal.pthread_kill, (threading.get_ident(), number))
            again.daemon = True
            again.start()
        elif not followed and time.monotonic() >= due:
            workers.interrupt()

    before = {number: signal.signal(number, note) or signal.SIG_DFL for number in (signal.SIGINT, signal.SIGTERM)}
    ahead = False
    try:
        yield
    except WorkerLostError:
        ahead = workers.stop is None and "TORCHELASTIC_RUN_ID" in os.environ
        raise
    finally:
        if again is not None:
            again.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
        if ahead:  # torchrun is about to end the others for this very loss: once, so that they can still say so
            signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, before[signal.SIGTERM]) and None)
    if workers.stop is not None:
        signal.raise_signal(workers.stop)


def is_first() -> bool:
    """Return whether this process is the first that `torchrun` started, or alone."""
    return promised() == 1 or os.environ.get("RANK", "0") == "0"


def is_first_to_say(line: str) -> bool:
    """Return whether no other worker under `torchrun` has said `line` yet, so that an error of all is printed once."""
    if promised() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=10)))
        return store.add(f"ppl_vae/said/{line}", 1) == 1
    except (RuntimeError, ValueError):  # the store is gone already
        return True
