"""Means of several importance-weighted bounds.

    MIWAE   L_MK(x) = 1/M sum_m log 1/K sum_k w_mk
    PIWAE   model: log 1/(MK) sum_mk w_mk, guide: L_MK

(Rainforth et al. 2018.) More particles tighten a bound but drown the guide's gradient in noise; more groups do not.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.core.checks import integer_at_least
from ppl_vae.core.config import configurable
from ppl_vae.objectives.base import with_value
from ppl_vae.objectives.detached import DetachedDraws
from ppl_vae.objectives.importance.bound import Coefficients, WeightedBound
from ppl_vae.objectives.importance.weights import Weighed
from ppl_vae.pairs.sites import Record

Gradient = Literal["reparameterised", "stl", "dreg"]


@configurable
class MIWAE(WeightedBound):
    """Mean of M importance-weighted bounds of K particles each.

    Parameters
    ----------
    num_particles : int
        K, draws per datum and group.
    num_groups : int
        M, groups.
    gradient : {"reparameterised", "stl", "dreg"}
        The estimator of its gradient; see `ppl_vae.objectives.importance.bound`.

    Raises
    ------
    PairError
        For a discrete latent of the guide that is not enumerated, or a global latent.
    """

    recordable = True

    def __init__(self, num_particles: int = 8, num_groups: int = 8, gradient: Gradient = "reparameterised") -> None:
        super().__init__(num_particles, gradient)
        self.num_groups = integer_at_least("num_groups", num_groups, 1)

    @property
    def draws(self) -> int:
        """M K, draws per datum in all."""
        return self.num_groups * self.num_particles

    def bound(self, log_w: Tensor) -> Tensor:
        """Return 1/M sum_m log 1/K sum_k w_mk of (…, M K, B): shape (…, B)."""
        return (torch.logsumexp(self._grouped(log_w), -2) - math.log(self.num_particles)).mean(-2)

    def slopes(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return w~ / M and (w~ - w~^2) / M, with w~ normalised in each group."""
        a = torch.softmax(self._grouped(log_w), -2)
        return (a / self.num_groups).flatten(-3, -2), ((a - a.square()) / self.num_groups).flatten(-3, -2)

    def _grouped(self, log_w: Tensor) -> Tensor:
        return log_w.unflatten(-2, (self.num_groups, self.num_particles))


@configurable
class PIWAE(MIWAE):
    """Partially importance-weighted: the tightest bound for the model, the mean of M bounds for the guide.

    Its value is that of the tightest bound, of M K particles.

    Parameters
    ----------
    num_particles : int
        K, draws per datum and group.
    num_groups : int
        M, groups.
    gradient : {"reparameterised", "stl", "dreg"}
        The estimator of the guide's gradient; see `ppl_vae.objectives.importance.bound`.

    Raises
    ------
    PairError
        For a discrete latent of the guide that is not enumerated, or a global latent.
    """

    recordable = True

    def __init__(self, num_particles: int = 8, num_groups: int = 8, gradient: Gradient = "reparameterised") -> None:
        super().__init__(num_particles, num_groups, gradient)

    def detached(self) -> DetachedDraws:
        """Return a handler that separates the parts of the gradient: the model maximises another bound."""
        return DetachedDraws()

    def natural(self, weighed: Weighed, run: Record) -> Tensor:
        """Return the bound of all M K particles."""
        return self._tightest(weighed)

    def estimate(self, weighed: Weighed, coefficients: Coefficients, detached: DetachedDraws) -> Tensor:
        """Return the bound of all particles, whose gradient has the given coefficients."""
        with torch.no_grad():
            value = self._tightest(weighed)
        return with_value(value, super().estimate(weighed, coefficients, detached))

    def coefficients(self, weighed: Weighed, run: Record) -> Coefficients:
        """Return the coefficients of the mean of M bounds, except the model's: w~ of all M K particles."""
        return super().coefficients(weighed, run)._replace(model=torch.softmax(weighed.log_w, -2))

    def _tightest(self, weighed: Weighed) -> Tensor:
        return weighed.total(torch.logsumexp(weighed.log_w, -2) - math.log(self.draws))
