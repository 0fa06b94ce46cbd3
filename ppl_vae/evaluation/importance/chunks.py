"""Log weights of many particles and data, drawn a chunk at a time in a budget of memory.

A chunk is one call of a sampler, for some particles of some data. All chunks have the same shape, which is recorded
once: the last chunk is padded, and the padding discarded. Where the device still runs out of memory, the chunk is
halved and drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.compile.graph import path_of
from ppl_vae.compile.recorded import Proved
from ppl_vae.core.errors import PairError, PplVaeError, one_line
from ppl_vae.core.process import isolated
from ppl_vae.core.progress import Bar
from ppl_vae.evaluation.memory import allocated, bytes_per_row, even, halved, went_from

#: Log weights of shape (k, B) for a batch, k fresh particles each.
Sampler = Callable[[dict[str, Tensor], int], Tensor]

#: Default bytes to work in. A GPU needs large chunks: each of them launches every operation.
MEMORY = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}

#: Most bytes of a chunk on a CPU, so that it stays in the cache. Of a VAE on 784 pixels these are 834 rows. Compiled, a
#: row of 125 takes 1.35 times as long and one of 5,000 0.96 times on an Intel Xeon with 33 MiB of cache; on an AMD EPYC
#: larger chunks took at least half as long again. It does not depend on the machine, so that its draws do not.
CACHE = 16 * 2**20

#: Calls of one shape from which recording them pays: it saves two to four milliseconds a call, and takes one and a half
#: seconds, most of them to import what records. And bytes moved from which compiling pays, which takes up to twenty
#: seconds: half a minute of work on two cores. A GPU moves as much in a moment.
WORTH_RECORDING = 500
WORTH_COMPILING = {"cpu": 1e11, "cuda": 1e14}


#: Number of calls from which the last one is compared with the programs too, which costs one call.
WORTH_PROVING_AGAIN = 100


def choose_path(mode: str, calls: int, traffic: float, device: str = "cpu") -> str:
    """Return the path for so many calls of one shape, `traffic` bytes in all, on a kind of device."""
    least = WORTH_COMPILING.get(device, WORTH_COMPILING["cpu"])
    return path_of(mode, worth_recording=calls >= WORTH_RECORDING, worth_compiling=traffic >= least)


class Chunks:
    """Fills blocks of log weights.

    Parameters
    ----------
    sampler : callable
        Draws log weights (k, B) for a batch of B data.
    batch : mapping of str to Tensor
        All N data.
    num_particles : int
        K, particles of each datum in all.
    memory : int
        Bytes to work in, an upper limit.
    compile : {"auto", "off", "graph", "inductor"}
        How chunks are run. A recording is compared with the programs on the first chunk, and, of many, on the last.
    module : Module, optional
        The module whose parameters the sampler uses.

    Attributes
    ----------
    particles, data : int
        Shape of a chunk.
    path : str
        ``"eager"``, ``"graph"`` or ``"inductor"``.
    """

    def __init__(
        self,
        sampler: Sampler,
        batch: dict[str, Tensor],
        num_particles: int,
        memory: int,
        compile: str,
        module: nn.Module | None = None,
    ) -> None:
        self.sampler = sampler
        self.batch = batch
        self.module = module or nn.Module()
        device, size = next(iter(batch.values())).device, _size(batch)
        one = {name: value[:1] for name, value in batch.items()}
        budget = min(memory, CACHE) if device.type == "cpu" else memory
        try:
            with isolated(device=device):  # these draws must not change those of the estimate
                # Two particles of one datum: K of N data take at most N K / 2 times as much, or N times for K = 1.
                two = allocated(lambda count: sampler(one, count), 2)
                fits = two * size * max(num_particles / 2, 1) <= budget
                per_row, per_datum = (two / 2, two) if fits else _measured(sampler, one)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, PplVaeError | torch.OutOfMemoryError):
                raise
            raise PairError(
                "pair",
                expected="programs that run on a single datum: log p(x) of one does not depend on the others",
                got=one_line(error, 200),
                hint="batch norm with track_running_stats=True",
            ) from error
        self.particles = even(num_particles, int(budget / per_row))
        self.data = size if fits else even(size, int(budget / (per_datum + (num_particles - 1) * per_row)))
        calls = -(-size // self.data) * -(-num_particles // self.particles)
        self.path = choose_path(compile, calls, per_row * num_particles * size, device.type)
        self._planned = self.particles, self.data
        self._last = calls if calls >= WORTH_PROVING_AGAIN else 0
        self._calls = 0
        self._run = self._proved()
        self._spent = 0.0

    @property
    def shape(self) -> str:
        """The shape of a chunk as text."""
        return f"{self.particles:,} particles of {self.data:,} data"

    def fill(self, block: Tensor, batch: dict[str, Tensor], bar: Bar) -> None:
        """Draw log weights of `batch`, b data, into all of `block` (k, b)."""
        particles, data = block.shape
        if particles > self.particles or data > self.data:
            # Read once: where the chunk is halved meanwhile, the recursive call splits again.
            rows, columns = self.particles, self.data
            for start in range(0, data, columns):
                part = {name: value[start : start + columns] for name, value in batch.items()}
                for piece in block[:, start : start + columns].split(rows):
                    self.fill(piece, part, bar)
            return
        try:
            block.copy_(self._draw(batch)[:particles, :data])
            bar(block.numel())
            return
        except torch.OutOfMemoryError as error:
            reason = " ".join(str(error).split())[:120]
        # Outside the handler: its traceback keeps the chunk's tensors alive.
        self._halve(reason)
        self.fill(block, batch, bar)

    def details(self) -> dict[str, Any]:
        """Return the path, the chunk and times as plain values; warn once if memory ran out."""
        details: dict[str, Any] = {"chunk": self.shape, "path": self.path, "seconds_recording": self.seconds}
        if (self.particles, self.data) != self._planned:
            details["out_of_memory"] = went_from(self._planned, (self.particles, self.data))
        return details

    @property
    def seconds(self) -> float:
        """Seconds spent recording and compiling."""
        return self._spent + self._run.seconds

    def _draw(self, batch: dict[str, Tensor]) -> Tensor:
        """Return log weights of `batch`, drawn as one chunk that is padded with copies of the last datum."""
        if missing := self.data - _size(batch):
            batch = {name: torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for name, x in batch.items()}
        self._calls += 1
        (log_weights,) = self._run(
            *batch.values(),
            other=lambda: [x[-self.data :] for x in self.batch.values()],
            hold=self._calls == self._last,
        )
        self.path = self._run.path
        return log_weights

    def _proved(self) -> Proved:
        """Return the sampler for chunks of the current shape, recorded if that is its path."""
        sampler, names, particles = self.sampler, list(self.batch), self.particles

        def compute(*values: Tensor) -> list[Tensor]:
            return [sampler(dict(zip(names, values, strict=True)), particles)]

        return Proved(compute, self.path, module=self.module, what="log p(x)", results=["a log weight"])

    def _halve(self, reason: str) -> None:
        """Cut the chunk to half of its particles, or of its data where it has one particle."""
        self.particles, self.data = halved(self.particles, self.data, reason)
        self._spent += self._run.seconds
        self._last = 0
        self._run = self._proved()


def _size(batch: dict[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _measured(sampler: Sampler, one: dict[str, Tensor]) -> tuple[float, float]:
    """Return the bytes per additional particle of one datum, and per additional datum with one particle.

    A datum has a cost of its own: the guide encodes it once, however many particles it draws.
    """
    per_row = bytes_per_row(lambda count: sampler(one, count), has_run=True)
    return per_row, bytes_per_row(lambda count: sampler(_repeated(one, count), 1), has_run=True)


def _repeated(one: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value.expand(count, *value.shape[1:]) for name, value in one.items()}
