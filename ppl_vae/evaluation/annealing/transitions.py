"""Annealed importance sampling (Neal 2001; Wu et al. 2017): log p(x) through T intermediate distributions.

    log f_b(z) = (1 - b) log f_0(z) + b log p(x, z),   0 = b_0 < b_1 < ... < b_T = 1,   f_0 = p(z) or q(z | x)
    log w = sum_t (b_t - b_{t-1}) log [p(x, z_{t-1}) / f_0(z_{t-1})],   z_0 ~ f_0,   z_{t-1} -> z_t by HMC on f_{b_t}

E[w] = p(x) for any transitions z_{t-1} -> z_t that leave f_{b_t} invariant, so log (1/K) sum_k w_k is a lower bound in
expectation, and T = 1 is plain importance weighting.

Adapting the step size to the acceptance of the same chains breaks the invariance, and biases w slightly. So step sizes
are found in a first pass with other chains, one for each datum and rung of a ladder over b, and are fixed in the pass
that estimates: given them, E[w] = p(x) holds exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ppl_vae.core import progress
from ppl_vae.core.checks import integer_at_least, one_of, positive
from ppl_vae.core.errors import InputError
from ppl_vae.evaluation.annealing import hmc
from ppl_vae.evaluation.annealing.tempered import LOG_WEIGHT, Densities, Tempered
from ppl_vae.evaluation.annealing.unconstrained import STARTS, Unconstrained

SCHEDULES = ("geometric", "linear", "sigmoid")

#: b_1 of the geometric schedule, and the largest argument of the sigmoid.
SMALLEST, REACH = 1e-4, 4.0
#: Transitions at the first rung before the ladder is climbed, and the rate of `hmc.adapted`: half that rate lags
#: behind a posterior that narrows a hundredfold over a hundred rungs.
SETTLING, RATE = 40, 0.6


@dataclass(frozen=True)
class AnnealedOptions:
    """How to anneal.

    Attributes
    ----------
    num_distributions : int
        T, the number of steps of b from 0 to 1; the work grows like T, and the gap to log p(x) falls like 1 / T.
    schedule : {"sigmoid", "linear", "geometric"}
        b_t = t / T (linear); b_t = 1e-4^((T - t) / (T - 1)), b_0 = 0 (geometric: one ratio throughout);
        b_t = [s(4 (2t/T - 1)) - s(-4)] / [s(4) - s(-4)], s the logistic function (sigmoid: small steps at both ends).
    start : {"prior", "guide"}
        f_0: the prior, whose support covers the posterior, or the guide, which is closer to it.
    leapfrog_steps : int
        Of each HMC transition.
    target_acceptance : float
        Acceptance that step sizes are adapted to; 0.65 as in Wu et al. (2017).
    step_size : float
        Initial step size of the adaptation.
    rungs : int
        Number of values of b at which step sizes are adapted, with one transition each. With too few, step sizes lag
        behind.

    Raises
    ------
    InputError
        For a number out of its range, or a name unknown.
    """

    num_distributions: int = 1000
    schedule: str = "sigmoid"
    start: str = "prior"
    leapfrog_steps: int = 10
    target_acceptance: float = 0.65
    step_size: float = 0.1
    rungs: int = 100

    def __post_init__(self) -> None:
        for name, usual in (("num_distributions", 1000), ("leapfrog_steps", 10), ("rungs", 100)):
            value = integer_at_least(name, getattr(self, name), 1, hint=f"{name}={usual}")
            object.__setattr__(self, name, value)
        for name in ("step_size", "target_acceptance"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        if self.target_acceptance >= 1:
            raise InputError("target_acceptance", expected="a number below 1", got=str(self.target_acceptance))
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("start", self.start, STARTS)

    @property
    def adapting(self) -> int:
        """How many transitions the adapting pass takes."""
        return self.rungs + SETTLING if self.num_distributions > 1 else 0

    @classmethod
    def of(cls, given: AnnealedOptions | Mapping[str, Any] | None) -> AnnealedOptions:
        """Return options as they are, from a mapping of names to values, or the defaults for None."""
        if isinstance(given, cls):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise InputError(
                "annealing",
                expected="AnnealedOptions or a mapping",
                got=type(given).__name__,
                hint='{"num_distributions": 1000}',
            )
        known = [field.name for field in fields(cls)]
        for name in given or {}:
            one_of("annealing option", name, known)
        return cls(**(given or {}))


def schedule(name: str, num_distributions: int) -> Tensor:
    """Return b_0, ..., b_T, (T + 1,), float64, rising from 0 to 1; see `AnnealedOptions` for the formulas."""
    T = num_distributions
    share = torch.arange(T + 1, dtype=torch.float64, device="cpu") / T
    if name == "linear" or T == 1:
        return share
    if name == "sigmoid":
        curve = torch.sigmoid(REACH * (2 * share - 1))
        return (curve - curve[0]) / (curve[-1] - curve[0])
    exponent = (T - torch.arange(T + 1, dtype=torch.float64, device="cpu")) / (T - 1)
    return torch.where(share == 0, 0.0, SMALLEST**exponent)


class Annealer:
    """Chains that anneal a chunk of B data with K particles each; densities are recorded once for that shape.

    Parameters
    ----------
    target : Unconstrained
        The densities.
    options : AnnealedOptions
        How to anneal.
    path : str
        ``"eager"``, ``"graph"`` or ``"inductor"``.
    """

    def __init__(self, target: Unconstrained, options: AnnealedOptions, path: str) -> None:
        self.target = target
        self.options = options
        self.betas = schedule(options.schedule, options.num_distributions)
        self.densities = Densities(target, path)

    @property
    def path(self) -> str:
        """How densities are computed: ``"eager"``, ``"graph"`` or ``"inductor"``."""
        return self.densities.path

    @property
    def seconds(self) -> float:
        """Seconds spent recording and compiling."""
        return self.densities.seconds

    def move(
        self,
        u: Tensor,
        step_size: Tensor,
        beta: Tensor,
        batch: Mapping[str, Tensor],
        known: Tensor,
        *,
        hold: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take one transition that leaves f_beta invariant: u (K, B, L), what is `known` there, acceptance (K, B).

        With `hold`, a recording is compared with the programs.
        """
        density = Tempered(self.densities, beta, batch, hold=hold)
        u, known, acceptance = hmc.transition(
            density, u, step_size, self.options.leapfrog_steps, start=density.of(known)
        )
        return u, known, acceptance

    def adapt(self, batch: Mapping[str, Tensor], num_particles: int, bar: progress.Bar) -> Tensor:
        """Return step sizes of every rung and datum, (rungs, B), found by chains that are then discarded."""
        options = self.options
        u = self.target.draw(batch, num_particles)
        if options.num_distributions == 1:  # no transitions
            return torch.full_like(u[:1, :, 0], options.step_size)
        ladder = schedule(options.schedule, options.rungs)[1:].to(u)
        step_size = torch.full_like(u[0, :, 0], options.step_size)
        known, found = self.densities.at(u, batch), []
        for rung in range(1 - SETTLING, options.rungs):
            first = rung == 1 - SETTLING
            u, known, acceptance = self.move(u, step_size, ladder[max(rung, 0)], batch, known, hold=first)
            step_size = hmc.adapted(step_size, acceptance, options.target_acceptance, RATE)
            if rung >= 0:
                found.append(step_size)
            bar(acceptance.numel())
        return torch.stack(found)

    def anneal(
        self,
        u: Tensor,
        step_sizes: Tensor,
        batch: Mapping[str, Tensor],
        bar: progress.Bar,
        *,
        backward: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Anneal u (K, B, L) from f_0 to the posterior, or `backward` from the posterior to f_0.

        Returns
        -------
        log_weights : Tensor (K, B)
            log w in float64; backward, log 1/w: the increments of b in reverse order.
        acceptance : Tensor (B,)
            Mean over transitions and chains; NaN where T = 1 has none.
        """
        betas = self.betas.flip(0) if backward else self.betas
        increments, values, T = betas.diff().tolist(), betas.to(u), self.options.num_distributions
        known = self.densities.at(u, batch)
        log_weights = increments[0] * known[..., LOG_WEIGHT].to(torch.float64)
        accepted = torch.zeros_like(step_sizes[0])
        for t in range(1, T):
            place = T - t if backward else t
            rung = max(round(place * len(step_sizes) / T) - 1, 0)
            u, known, acceptance = self.move(u, step_sizes[rung], values[t], batch, known, hold=t == T - 1)
            log_weights += increments[t] * known[..., LOG_WEIGHT]
            accepted += acceptance.mean(0)
            bar(acceptance.numel())
        return log_weights, accepted / (T - 1) if T > 1 else torch.full_like(accepted, torch.nan)
