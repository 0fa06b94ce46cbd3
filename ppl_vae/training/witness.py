"""The program's own step beside the recorded one: what both give, and in what they differ."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pyro.distributions import validation_enabled
from torch import Tensor

from ppl_vae.compile.proof import broken_off, differing, drawn_differently, moved_by_rounding
from ppl_vae.core.errors import PplVaeError
from ppl_vae.core.process import evaluating, isolated, random_state, set_random_state
from ppl_vae.pairs.observations import check_sites
from ppl_vae.pairs.sites import trace_pair
from ppl_vae.training.distributed.workers import Shard

if TYPE_CHECKING:
    from ppl_vae.training.gradient import Gradient, Recorded


class StepResults(NamedTuple):
    """What a step gives: loss, KL where asked for, gradients by parameter, buffers (empty if none has changed)."""

    loss: Tensor
    kl: Tensor | None
    gradients: list[Tensor | None]
    buffers: list[Tensor]


class Witness:
    """Runs a step by its programs, leaving everything as it was, to hold a recording against.

    Parameters
    ----------
    step : Gradient
        Loss and gradient of a batch, by the programs and by a recording.
    """

    def __init__(self, step: Gradient) -> None:
        self.step = step

    def both(
        self, recorded: Recorded, arguments: dict[str, Tensor], shard: Shard
    ) -> tuple[str, StepResults, StepResults, dict[str, Any]]:
        """Run program and recording alike, changing neither buffers nor KL.

        Returns
        -------
        str
            What they differ in, in words; empty if in nothing.
        StepResults, StepResults
            What the recording gives, and the program; twice the latter where the recording gives nothing.
        dict
            The random state as the program leaves it.
        """
        step, device = self.step, self.step.pair.device
        before = random_state(device)
        computed = self.computed(arguments, shard)
        after = random_state(device)

        def again(moved: bool) -> dict[str, Tensor | None]:
            set_random_state(before, device)
            with moved_by_rounding(step.modules, step.precision) if moved else nullcontext():
                return self._named(self.computed(arguments, shard))

        set_random_state(before, device)
        try:
            results = step.run_recorded(recorded, arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a graph that holds for other data alone
            return broken_off(error), computed, computed, after
        drawn = drawn_differently(after, device)  # before anything is run again
        told = differing(self._named(results), self._named(computed), again, precision=step.precision) or drawn
        return told, results, computed, after

    def _named(self, results: StepResults) -> dict[str, Tensor | None]:
        """Return the parts of a step by what a warning calls them."""
        step = self.step
        buffers = results.buffers or step.current_buffers()
        return {
            "the loss": results.loss,
            "the KL": results.kl,
            **{f"the gradient of {_short(name)}": g for name, g in zip(step.named, results.gradients, strict=True)},
            **{f"the buffer {_short(name)}": b for name, b in zip(step.buffers, buffers, strict=True)},
        }

    def computed(self, arguments: dict[str, Tensor], shard: Shard) -> StepResults:
        """Return what the program's own step gives; buffers and KL are as they were afterwards.

        Values are looked at: draws and data in the support of their distributions, parameters in their constraints.
        """
        step = self.step
        kept = [(home, name, home[name], home[name].clone()) for home, name in step.buffers.values()]
        kl = step.kl.clone()
        try:
            loss = self._looking(arguments, shard)
            gradients = [parameter.grad for parameter in step.named.values()]
            measured = step.kl.clone() if step.rule.measures else None
            return StepResults(loss, measured, gradients, [value.clone() for value in step.current_buffers()])
        finally:
            step.kl.copy_(kl)
            for home, name, value, before in kept:
                home[name] = value.copy_(before)

    def _looking(self, arguments: dict[str, Tensor], shard: Shard) -> Tensor:
        """Run the program as Pyro checks its values; what a mask hides may be anything."""
        step = self.step
        before = random_state(step.pair.device)
        kept = [value.clone() for value in step.current_buffers()]
        try:
            step.kl.zero_()
            with validation_enabled(True):
                return step.run_eager(arguments, shard)
        except ValueError as error:
            if isinstance(error, PplVaeError):
                raise
        with isolated(device=step.pair.device), evaluating(step.pair):
            check_sites(trace_pair(*step.programs(shard), (), arguments))
        set_random_state(before, step.pair.device)
        for value, was in zip(step.current_buffers(), kept, strict=True):
            value.copy_(was)
        step.kl.zero_()
        return step.run_eager(arguments, shard)


def _short(name: str) -> str:
    """Return the name of a parameter as the pair has it."""
    return name.removeprefix("0.")
