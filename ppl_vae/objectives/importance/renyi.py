"""Renyi's variational bound.

    L_alpha(x) = log E_q[w^(1 - alpha)] / (1 - alpha) = log p(x) - D_alpha(q(z | x) || p(z | x)), w = p(x, z) / q(z | x)

estimated by 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha) (Li & Turner 2016). alpha -> 1 is the ELBO, alpha = 0 the
importance-weighted bound, alpha = -inf the largest log weight. The estimate is biased towards the ELBO, less so as K
grows: below L_alpha for alpha < 1, above it for alpha > 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.core.checks import number
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError
from ppl_vae.objectives.importance.bound import WeightedBound


@configurable
class Renyi(WeightedBound):
    """Renyi's bound, between the ELBO and log p(x) for 0 <= alpha <= 1.

    Parameters
    ----------
    alpha : float
        Order of the divergence. Above 1 the guide seeks a mode, and the bound lies below the ELBO; below 0 it covers
        the posterior, and L_alpha lies above log p(x).
    num_particles : int
        K, draws per datum.
    gradient : {"reparameterised", "stl", "dreg"}
        The estimator of its gradient; see `ppl_vae.objectives.importance.bound`.

    Raises
    ------
    InputError
        If `alpha` is not a number, or infinite with ``gradient="dreg"``.
    PairError
        For a discrete latent of the guide that is not enumerated, or a global latent.
    """

    recordable = True

    def __init__(
        self,
        alpha: float = 0.5,
        num_particles: int = 10,
        gradient: Literal["reparameterised", "stl", "dreg"] = "reparameterised",
    ) -> None:
        super().__init__(num_particles, gradient)
        alpha = number("alpha", alpha, "a number", finite=False, hint="alpha=0.5")
        if math.isinf(alpha) and gradient == "dreg":
            raise InputError(
                "gradient 'dreg'",
                expected="a finite alpha: which weight is largest has no derivative",
                got=f"alpha={alpha}",
                hint="gradient='stl'",
            )
        self.alpha = alpha

    def bound(self, log_w: Tensor) -> Tensor:
        """Return 1/(1 - alpha) log 1/K sum_k w_k^(1 - alpha), (…, B)."""
        power = 1.0 - self.alpha
        if power == 0:
            return log_w.mean(-2)
        if math.isinf(power):
            return log_w.amax(-2) if power > 0 else log_w.amin(-2)
        return (torch.logsumexp(power * log_w, -2) - math.log(log_w.shape[-2])) / power

    def slopes(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return a = w^(1 - alpha) / sum_k w_k^(1 - alpha) and (1 - alpha) (a - a^2)."""
        power = 1.0 - self.alpha
        if math.isinf(power):
            best = (log_w == self.bound(log_w).unsqueeze(-2)).to(log_w.dtype)
            return best / best.sum(-2, keepdim=True), torch.zeros_like(log_w)
        a = torch.softmax(power * log_w, -2)
        return a, power * (a - a.square())
