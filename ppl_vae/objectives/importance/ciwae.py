"""A weighted mean of the ELBO and the importance-weighted bound.

L(x) = beta 1/K sum_k log w_k + (1 - beta) log 1/K sum_k w_k        (Rainforth et al. 2018)
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.core.checks import share
from ppl_vae.core.config import configurable
from ppl_vae.objectives.importance.bound import WeightedBound


@configurable
class CIWAE(WeightedBound):
    """Combined bound: the ELBO's signal for the guide, and the tighter bound's for the model.

    Parameters
    ----------
    beta : float
        Weight of the ELBO: 0 is the importance-weighted bound, 1 the ELBO.
    num_particles : int
        K, draws per datum.
    gradient : {"reparameterised", "stl", "dreg"}
        The estimator of its gradient; see `ppl_vae.objectives.importance.bound`.

    Raises
    ------
    InputError
        If `beta` is not between 0 and 1.
    PairError
        For a discrete latent of the guide that is not enumerated, or a global latent.
    """

    recordable = True

    def __init__(
        self,
        beta: float = 0.5,
        num_particles: int = 10,
        gradient: Literal["reparameterised", "stl", "dreg"] = "reparameterised",
    ) -> None:
        super().__init__(num_particles, gradient)
        self.beta = share("beta", beta)

    def bound(self, log_w: Tensor) -> Tensor:
        """Return beta mean_k log w_k + (1 - beta) log mean_k w_k, (…, B)."""
        tight = torch.logsumexp(log_w, -2) - math.log(log_w.shape[-2])
        return self.beta * log_w.mean(-2) + (1 - self.beta) * tight

    def slopes(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return beta / K + (1 - beta) w~ and (1 - beta) (w~ - w~^2)."""
        a = torch.softmax(log_w, -2)
        return self.beta / log_w.shape[-2] + (1 - self.beta) * a, (1 - self.beta) * (a - a.square())
