"""A computation that runs from its recording, once that agreed with the program; else eagerly, with one warning."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ppl_vae.compile.ahead import Ahead
from ppl_vae.compile.cuda_graph import capturing
from ppl_vae.compile.graph import Computation, NotRecordableError, Recording, record, release, traced
from ppl_vae.compile.proof import Results, broken_off, differing, drawn_differently, moved_by_rounding
from ppl_vae.core.process import random_state, set_random_state

R = TypeVar("R")
T = TypeVar("T")

#: The warning of a computation that continues without a recording.
REFUSED = "cannot be recorded and runs eagerly"
DIFFERED = "runs eagerly, because its recording is not the program"


class DiffersError(Exception):
    """A recording in use differs from the program: its results must be discarded."""


class Recorded(ABC, Generic[R]):
    """Callable of tensors; a concrete class defines the recorded function, the program, and the results' names.

    Parameters
    ----------
    path : {"eager", "graph", "inductor"}
        How it should run.
    module : Module
        The module that is computed.
    what : str
        What is computed, for the warning.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products.
    share : float
        See `differing`.
    proofs : int
        How many of the first calls are also computed by the program.

    Attributes
    ----------
    path : str
        How it runs.
    seconds : float
        Spent recording and compiling.
    """

    def __init__(
        self,
        path: str,
        *,
        module: nn.Module,
        what: str,
        precision: str = "float32",
        share: float = 0.0,
        proofs: int = 1,
    ) -> None:
        self.path = path
        self.module = module
        self.what = what
        self.precision = precision
        self.share = share
        self.seconds = 0.0
        self._proofs = proofs
        self._recording: Recording | None = None
        self._ahead: Ahead | None = None
        self._due = False  # to be compiled at the next call; until then the recording can be compared

    @abstractmethod
    def compute(self, *inputs: Tensor) -> list[Tensor]:
        """Compute the outputs that are recorded."""

    @abstractmethod
    def read(self, outputs: list[Tensor]) -> R:
        """Return the recording's outputs as results."""

    @abstractmethod
    def program(self, *inputs: Tensor) -> R:
        """Return the program's results, with no other state changed than the random state."""

    @abstractmethod
    def named(self, results: R) -> Results:
        """Return the results by their names in a warning."""

    def __call__(self, *inputs: Tensor, other: Callable[[], Sequence[Tensor]] | None = None, hold: bool = False) -> R:
        """Compute by the recording, which is made at the first call from `other`'s inputs rather than these.

        With `hold`, compare it with the program again.

        Raises
        ------
        DiffersError
            If they differ, or the recording raises an error, when it was already in use.
        """
        if self.path == "eager":
            return self.program(*inputs)
        if self._due:
            self.path, self._recording, self._due = "inductor", None, False
            self._proofs = max(self._proofs, 1)
        used = self._recording is not None and self._proofs <= 0
        if used and not hold:
            return self._in_use(inputs)
        self.prepare(inputs if other is None else other)
        if self.path == "eager":
            return self.program(*inputs)
        self._proofs -= 1
        return self._held(inputs, used)

    def prepare(self, inputs: Sequence[Tensor] | Callable[[], Sequence[Tensor]]) -> None:
        """Record, if that is to be done, from these inputs; where it cannot be done, run eagerly."""
        if self.path == "eager" or self._recording is not None:
            return
        try:
            self._record(inputs() if callable(inputs) else inputs)
        except NotRecordableError as reason:
            self._give_up(f"{REFUSED}: {reason}")

    def compare(self, inputs: Sequence[Tensor]) -> tuple[str, R, Mapping[str, Any]]:
        """Run recording and program from the same random state.

        Returns
        -------
        str
            How they differ, as text; empty if they agree.
        R
            The recording's results, or, if they differ, the program's.
        mapping
            The random state after the program.
        """
        assert self._recording is not None
        device = inputs[0].device
        before = random_state(device)
        computed = self.program(*inputs)
        after = random_state(device)

        def again(moved: bool) -> Results:
            here = random_state(device)
            set_random_state(before, device)
            with moved_by_rounding(self.module, self.precision) if moved else nullcontext():
                results = self.named(self.program(*inputs))
            set_random_state(here, device)
            return results

        set_random_state(before, device)
        try:
            recorded = self.read(self._recording(*inputs))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a graph that is valid for other data only
            return broken_off(error), computed, after
        drawn = drawn_differently(after, device)  # before anything else is run
        named = self.named(recorded), self.named(computed)
        reason = differing(*named, again, precision=self.precision, share=self.share) or drawn
        return reason, computed if reason else recorded, after

    def _held(self, inputs: Sequence[Tensor], used: bool) -> R:
        """Return the recording's results or, if it differs from the program, the program's; raise if it was in use."""
        reason, results, after = self.compare(inputs)
        if reason:
            set_random_state(after, inputs[0].device)
            self._give_up(f"{DIFFERED}: {reason}")
            if used:
                raise DiffersError(reason)
        return results

    def _in_use(self, inputs: Sequence[Tensor]) -> R:
        assert self._recording is not None
        try:
            return self.read(self._recording(*inputs))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a graph that is valid for other data only
            if capturing(inputs[0].device):
                raise
            reason = broken_off(error)
            self._give_up(f"{DIFFERED}: {reason}")
            raise DiffersError(reason) from error

    @property
    def expected_seconds(self) -> float:
        """Seconds that one run of the recording is expected to take; 0 if there is none."""
        return 0.0 if self._recording is None else self._recording.expected_seconds

    def compile_ahead(self, inputs: Sequence[Tensor]) -> None:
        """Compile in another process, for a later `compile`; `inputs` are of the shapes that it is called with."""
        started = time.perf_counter()
        with suppress(NotRecordableError):  # found by `compile`, which warns
            graph = traced(self.compute, inputs, module=self.module, fused=True)
            self._ahead = Ahead(graph, inputs)
            release(graph)
        self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """End a compilation that is under way."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def compile(self) -> None:
        """Run compiled from the next call on, which waits for a compilation that is under way."""
        self._due = True

    def _record(self, inputs: Sequence[Tensor]) -> None:
        started = time.perf_counter()
        if self._ahead is not None:
            self._ahead.wait()
            self._ahead = None
        self._recording = record(self.compute, inputs, compiled=self.path == "inductor", module=self.module)
        self.path = self._recording.path
        self.seconds += time.perf_counter() - started

    def _give_up(self, reason: str) -> None:
        self.close()
        self.path, self._recording = "eager", None
        warnings.warn(f"{self.what} {reason}", stacklevel=7)


class Proved(Recorded[list[Tensor]]):
    """A computation without gradients of its own, as a function.

    Parameters
    ----------
    compute : callable
        Tensors in, list of tensors out.
    results : sequence of str
        Names of its results.
    path, module, what, share
        See `Recorded`.
    """

    def __init__(
        self,
        compute: Computation,
        path: str,
        *,
        module: nn.Module,
        what: str,
        results: Sequence[str],
        share: float = 0.0,
    ) -> None:
        super().__init__(path, module=module, what=what, share=share)
        self._compute = compute
        self._results = results

    def compute(self, *inputs: Tensor) -> list[Tensor]:
        """Return what the function returns."""
        return self._compute(*inputs)

    def program(self, *inputs: Tensor) -> list[Tensor]:
        """Return what the function returns."""
        return self._compute(*inputs)

    def read(self, outputs: list[Tensor]) -> list[Tensor]:
        """Return the outputs as they are."""
        return outputs

    def named(self, results: list[Tensor]) -> Results:
        """Return the results by their names."""
        return dict(zip(self._results, results, strict=True))


def proved_or_eagerly(estimate: Callable[[str], T], mode: str, device: torch.device) -> T:
    """Return ``estimate(mode)``, or, where a recording in use was disproved, ``estimate("off")`` of the same draws."""
    before = random_state(device)
    try:
        return estimate(mode)
    except DiffersError:
        set_random_state(before, device)
        return estimate("off")
