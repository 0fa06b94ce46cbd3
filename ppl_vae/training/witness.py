"""A step by the programs without side effects, with which a recorded step is compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyro.distributions import validation_enabled
from torch import Tensor

from ppl_vae.core.errors import PplVaeError
from ppl_vae.core.process import evaluating, isolated, random_state, set_random_state
from ppl_vae.pairs.observations import check_sites
from ppl_vae.pairs.sites import trace_pair
from ppl_vae.training.distributed.workers import Shard
from ppl_vae.training.recorded_step import StepResults

if TYPE_CHECKING:
    from ppl_vae.training.gradient import Gradient


class Witness:
    """Runs a step by its programs, and restores all state, to compare a recording with.

    Parameters
    ----------
    step : Gradient
        Loss and gradient of a batch, by the programs and by a recording.
    """

    def __init__(self, step: Gradient) -> None:
        self.step = step

    def computed(self, arguments: dict[str, Tensor], shard: Shard) -> StepResults:
        """Return the results of the program's own step; buffers and KL are restored afterwards.

        Values are checked: draws and data against supports, parameters of distributions against constraints.
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
        """Run the program with Pyro's validation; values hidden by a mask may be anything."""
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
