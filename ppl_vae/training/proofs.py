"""When the recorded steps of a fit are compared with the programs, and the last state at which they agreed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ppl_vae.compile.precision import products_in
from ppl_vae.core.errors import InputError, NonFiniteError
from ppl_vae.core.process import isolated
from ppl_vae.data import Split
from ppl_vae.training.step import TrainingStep

#: Recorded steps between two comparisons with the programs, each of which costs about two steps.
PROVING = 1000


class Proofs:
    """Compares recordings with the programs at the end of an epoch once another 1,000 steps are done, and of the fit.

    Parameters
    ----------
    step : TrainingStep
        The recorded steps.
    train : Split
        The training data.
    precision : {"float32", "tf32", "bf16"}
        Of matrix products.
    steps_per_epoch : int
        Of the fit.

    Attributes
    ----------
    state : dict
        The fit's state at the last comparison at which recordings and programs agreed.
    """

    def __init__(self, step: TrainingStep, train: Split, precision: str, steps_per_epoch: int) -> None:
        self.step = step
        self.train = train
        self.precision = precision
        self.steps_per_epoch = steps_per_epoch
        self.state: dict[str, Any] = {}

    def against(self, state: dict[str, Any], *, ended: bool) -> str:
        """Return, as text, how the recordings that led to `state` are wrong; keep the state if they are not."""
        epoch = epochs_of(state)
        steps = epoch * self.steps_per_epoch
        since = steps - epochs_of(self.state) * self.steps_per_epoch
        due = since >= PROVING or (ended and since > 0 and steps >= PROVING)
        reason = self.disproof(epoch, look=due)
        if due and not reason:
            self.state = state
        return reason

    def disproof(self, epoch: int, *, look: bool) -> str:
        """Return, as text, how a recording is wrong on any worker; empty if none is. With `look`, compare them now."""
        reason = self.step.gradient.disproved or (self.differs(epoch) if look else "")
        return next(filter(None, self.step.workers.gather(reason)), "")

    def differs(self, epoch: int) -> str:
        """Return, as text, how recorded steps and the programs differ on the first data; empty if they agree.

        Raises
        ------
        NonFiniteError
            For a value that a distribution does not allow.
        """
        pair = self.step.pair
        pair.train()
        with isolated(device=pair.device), products_in(self.precision):
            for rows in (rows for rows in self.step.paths if rows <= self.train.size):
                batch = self.train.batch(torch.arange(rows, device=pair.device))
                arguments, shard = self.step.own(batch)
                try:
                    if shard.size and (reason := self.step.gradient.differs(arguments, shard)):
                        return reason
                except InputError as error:
                    raise NonFiniteError(f"epoch {epoch}: {error}; it was not so at first") from error
        return ""


def epochs_of(state: Mapping[str, Any]) -> int:
    """Return how many epochs are done in a state."""
    return len(state["history"].get("epoch", []))
