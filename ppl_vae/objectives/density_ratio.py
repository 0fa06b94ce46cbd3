"""The total correlation of a code by density-ratio estimation, with a classifier trained beside the pair.

    TC(z) = KL(q(z) || prod_j q(z_j)) = E_q(z)[log D(z) / (1 - D(z))],   D(z) = q(z) / (q(z) + prod_j q(z_j))

D is a classifier of codes against codes whose coordinates were each permuted over the batch (Kim & Mnih 2018, eqs. 2
and 3, algorithm 1; Nguyen et al. 2010; Sugiyama et al. 2012).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import softplus

from ppl_vae.core.checks import integer_at_least, not_negative
from ppl_vae.core.config import configurable
from ppl_vae.core.types import Program
from ppl_vae.nn.mlp import MLP
from ppl_vae.objectives.base import with_value
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.objectives.total_correlation import only_code
from ppl_vae.pairs.sites import add


@configurable
class FactorVAE(ELBO):
    """The bound minus the total correlation of the code: ELBO - gamma TC(z) (Kim & Mnih 2018, eq. 2).

    The classifier is the objective's own `module`, which `fit` trains, saves and resumes with the pair. Its loss has
    gradients in its own parameters only, and the penalty has none in them. Codes are permuted within their batch. The
    value is that of the bound minus its penalty; the classifier's loss only adds its gradient. Validation uses the
    ELBO.

    Parameters
    ----------
    latent_dim : int
        L, of the pair's latent.
    gamma : float
        Weight of the total correlation.
    hidden : sequence of int
        Hidden layers of the classifier.

    Raises
    ------
    PairError
        Unless the pair has one latent, inside the plate ``data``, whose coordinates are independent given x.

    Examples
    --------
    >>> run = ppl_vae.fit(pair, data, objective=FactorVAE(latent_dim=10, gamma=10.0))     # doctest: +SKIP
    """

    recordable = True

    def __init__(self, latent_dim: int, gamma: float = 10.0, hidden: Sequence[int] = (200, 200, 200)) -> None:
        super().__init__()
        self.gamma = not_negative("gamma", gamma)
        self.module = MLP(integer_at_least("latent_dim", latent_dim, 1), 1, hidden, activation="leaky_relu")

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound plus the penalty; its gradient includes that of the classifier's loss."""
        run = self._get_trace(model, guide, args, kwargs, None)
        distortion, rate = self.terms(run)
        _, q = only_code(run, type(self).__name__)
        z = q["value"]
        frozen = {name: p.detach() for name, p in self.module.named_parameters()}
        penalty = functional_call(self.module, frozen, z).sum()
        loss = add(term.sum() for term in [*distortion.values(), *rate.values()]) + self.gamma * penalty
        return with_value(loss, len(z) * self.classification(z.detach()))

    def classification(self, z: Tensor) -> Tensor:
        """Return the cross-entropy, in nats per code, of classifying codes z (B, L) against permuted ones."""
        order = torch.rand(z.shape, device=z.device).argsort(0)
        permuted = z.gather(0, order)
        return 0.5 * (softplus(-self.module(z)).mean() + softplus(self.module(permuted)).mean())

    def total_correlation(self, z: Tensor) -> Tensor:
        """Return the estimate of TC in nats from codes z (B, L)."""
        return self.module(z).mean()
