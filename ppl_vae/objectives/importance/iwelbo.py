"""The importance-weighted bound.

    L_K(x) = E[log 1/K sum_k w_k],   w_k = p(x, z_k) / q(z_k | x),   z_k ~ q(. | x)

ELBO = L_1 <= L_2 <= … -> log p(x)  (Burda et al. 2016, eq. 8 and theorem 1).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ppl_vae.core.config import configurable
from ppl_vae.core.errors import PairError
from ppl_vae.objectives.base import with_value
from ppl_vae.objectives.importance.bound import WeightedBound
from ppl_vae.objectives.importance.weights import Weighed
from ppl_vae.pairs.sites import Record, add, log_prob

Gradient = Literal["reparameterised", "stl", "dreg", "vimco"]


@configurable
class IWELBO(WeightedBound):
    """Importance-weighted evidence lower bound.

    Parameters
    ----------
    num_particles : int
        K, draws per datum. With K = 1 this is the ELBO.
    gradient : {"reparameterised", "stl", "dreg", "vimco"}
        The estimator of its gradient; see `ppl_vae.objectives.importance.bound`. All have the same mean. The
        signal-to-noise ratio of the guide's gradient falls with K for ``"reparameterised"`` (Rainforth et al. 2018),
        and does not for ``"dreg"``. ``"vimco"`` is for guides with discrete latents.

    Raises
    ------
    PairError
        For a discrete latent of the guide, unless it is enumerated or the gradient is ``"vimco"``; for a
        global latent, since a log weight belongs to one datum.

    Examples
    --------
    >>> run = ppl_vae.fit(pair, data, objective=IWELBO(num_particles=50, gradient="dreg"))     # doctest: +SKIP
    """

    recordable = True
    GRADIENTS = ("dreg", "reparameterised", "stl", "vimco")

    def __init__(self, num_particles: int = 10, gradient: Gradient = "reparameterised") -> None:
        super().__init__(num_particles, gradient)

    def bound(self, log_w: Tensor) -> Tensor:
        """Return log 1/K sum_k w_k, (…, B)."""
        return torch.logsumexp(log_w, -2) - math.log(log_w.shape[-2])

    def slopes(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return w~ = w / sum_k w_k and w~ - w~^2."""
        a = torch.softmax(log_w, -2)
        return a, a - a.square()

    def natural(self, weighed: Weighed, run: Record) -> Tensor:
        """Return the bound, with VIMCO's gradient for the latents that cannot be reparameterised.

        sum_k (L - L_{-k}) dlog q(z_k)/dphi, where L_{-k} is the bound with w_k replaced by the geometric mean of the
        other weights (Mnih & Rezende 2016). For K = 1 there are no others: the score function without a baseline.
        """
        if not run.guide.unreparameterised:
            return super().natural(weighed, run)
        bound = self.bound(weighed.log_w)
        with torch.no_grad():
            signal = bound.unsqueeze(-2) - _without(weighed.log_w)
        log_q = add(log_prob(run.guide[name], scaled=False) for name in run.guide.unreparameterised)
        return weighed.total(with_value(bound, (signal * log_q).sum(-2)))

    def check(self, run: Record) -> None:
        """Raise for a latent whose distribution the gradient estimator does not support."""
        if self.gradient != "vimco":
            super().check(run)
        elif (scores := run.guide.unreparameterised) and run.guide.enumerated:
            raise PairError(
                f"site {scores[0]!r}",
                expected="a latent that is enumerated too, or reparameterised, beside an enumerated one",
                got=type(run.guide[scores[0]]["fn"]).__name__,
                hint="infer={'enumerate': 'parallel'}",
            )


def _without(log_w: Tensor) -> Tensor:
    """Return the bounds L_{-k} (K, B), each weight replaced by the geometric mean of the others; zero for K = 1.

    The sum over the others is made of cumulative sums from both ends: subtracting w_k from the whole sum would cancel
    where it dominates.
    """
    K = len(log_w)
    if K == 1:
        return torch.zeros_like(log_w)
    none = torch.full_like(log_w[:1], -math.inf)
    before = torch.cat((none, log_w.logcumsumexp(0)[:-1]))
    after = torch.cat((none, log_w.flip(0).logcumsumexp(0)[:-1])).flip(0)
    mean = (log_w.sum(0) - log_w) / (K - 1)
    return torch.logsumexp(torch.stack((before, after, mean)), 0) - math.log(K)
