"""The KL of a code in three parts, by the aggregate posterior q(z) = 1/N sum_n q(z|x_n).

    E_n[KL(q(z|x_n) || p(z))] = I(z; n) + KL(q(z) || prod_j q(z_j)) + sum_j KL(q(z_j) || p(z_j))

index-code mutual information, total correlation and dimension-wise KL (Chen et al. 2018, eq. 2). log q(z) of a draw z_i
from a mini-batch of B data:

    weighted:    log 1/(N B) sum_j q(z_i|x_j)                                                         (ibid., eq. 3)
    stratified:  log [1/N q(z_i|x_i) + (N - 1)/(N (B - 1)) sum_{j != i} q(z_i|x_j)]                (ibid., app. C.2)

The second has mean q(z_i) where batches are drawn without replacement. Here all other data of the batch have the same
weight, which has the same mean as the paper's form and less variance. With B = N it is exact.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.core.checks import integer_at_least, not_negative, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.types import Program
from ppl_vae.objectives.base import check_sites
from ppl_vae.objectives.elbo import ELBO
from ppl_vae.pairs.plates import alike, in_data_plate
from ppl_vae.pairs.sites import Record, Site, add, log_prob

SAMPLINGS = ("stratified", "weighted")


@configurable
class BetaTCVAE(ELBO):
    """The bound with a weight on each part of the KL.

        E_q[log p(x|z)] - alpha I(z; n) - beta TC(z) - gamma sum_j KL(q(z_j) || p(z_j))

    With alpha = beta = gamma = 1 it equals the ELBO for each draw. Validation uses the ELBO, whatever the weights.

    Parameters
    ----------
    data_size : int
        N, the size of the training data.
    beta : float
        Weight of the total correlation.
    alpha, gamma : float
        Weights of the mutual information and of the dimension-wise KL.
    sampling : {"stratified", "weighted"}
        The estimate of log q(z); see the module.

    Raises
    ------
    PairError
        Unless the pair has one latent, inside the plate ``data``, whose coordinates are independent given x; for a
        scale (such as a weight on the KL) around its programs.

    Examples
    --------
    >>> run = ppl_vae.fit(pair, data, objective=BetaTCVAE(data.train.size, beta=6.0))     # doctest: +SKIP
    """

    recordable = True

    def __init__(
        self,
        data_size: int,
        beta: float = 6.0,
        alpha: float = 1.0,
        gamma: float = 1.0,
        sampling: Literal["stratified", "weighted"] = "stratified",
    ) -> None:
        super().__init__()
        self.data_size = integer_at_least("data_size", data_size, 2)
        one_of("sampling", sampling, SAMPLINGS)
        self.alpha, self.beta = not_negative("alpha", alpha), not_negative("beta", beta)
        self.gamma, self.sampling = not_negative("gamma", gamma), sampling

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the distortion and the weighted parts of the KL as a tensor to differentiate."""
        parts = self.parts(model, guide, *args, **kwargs)
        return (
            parts["distortion"]
            + self.alpha * parts["mutual_information"]
            + self.beta * parts["total_correlation"]
            + self.gamma * parts["dimension_kl"]
        )

    def parts(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return distortion, mutual information, total correlation and dimension-wise KL, summed over the batch."""
        run = self._get_trace(model, guide, args, kwargs, None)
        check_sites(run)
        name, q = only_code(run, type(self).__name__)
        _check_unscaled(run.model | run.guide)
        z = q["value"]
        pairwise = q["fn"].base_dist.log_prob(z.unsqueeze(1))  # (B, B, L): log q(z_i | x_j)
        log_weights = self._log_weights(len(z), pairwise)
        log_q = log_prob(q)
        log_joint = torch.logsumexp(pairwise.sum(-1) + log_weights, 1)
        log_marginals = torch.logsumexp(pairwise + log_weights.unsqueeze(-1), 1).sum(-1)
        distortion = -add(log_prob(site).sum() for site in run.model.observed.values())
        return {
            "distortion": distortion,
            "mutual_information": (log_q - log_joint).sum(),
            "total_correlation": (log_joint - log_marginals).sum(),
            "dimension_kl": (log_marginals - log_prob(run.model[name])).sum(),
        }

    def _log_weights(self, B: int, like: Tensor) -> Tensor:
        """Return the log weight of x_j in log q(z_i), (B, B)."""
        N = self.data_size
        if self.sampling == "weighted":
            return like.new_full((B, B), -math.log(N * B))
        if B < 2 or B > N:
            raise InputError(
                "batch",
                expected=f"2 to {N} data, the data_size of the objective",
                got=str(B),
                hint="another batch_size, or sampling='weighted'",
            )
        others = like.new_full((B, B), math.log((N - 1) / (N * (B - 1))))
        return others.diagonal_scatter(like.new_full((B,), -math.log(N)))


def only_code(run: Record, objective: str) -> tuple[str, Site]:
    """Return the guide's one latent; it must be reparameterised, with coordinates that are independent given x.

    Raises
    ------
    PairError
        If there is no such latent, or another one.
    """
    codes = run.guide.latents
    for name in run.guide.observed:
        raise PairError(f"site {name!r}", expected=f"for {objective} no pyro.factor in the guide", got="one")
    for name, site in codes.items():
        got = ""
        if len(codes) > 1:
            got = f"{len(codes)} latents"
        elif not in_data_plate(site) or name in run.guide.auxiliary:
            got = "a global latent"
        elif not isinstance(site["fn"], Independent) or site["fn"].reinterpreted_batch_ndims != 1:
            got = type(site["fn"]).__name__
        elif not site["fn"].has_rsample:
            got = f"{type(site['fn'].base_dist).__name__}, which is not reparameterised"
        if got:
            raise PairError(
                f"site {name!r}",
                expected=f"for {objective} one latent per datum, with coordinates that are independent given x",
                got=got,
                hint="a guide like AmortizedNormal(…, covariance='diagonal'), or ppl_vae.objectives.ELBO()",
            )
        return name, site
    raise PairError("guide", expected=f"for {objective} one latent per datum", got="none")


def _check_unscaled(sites: dict[str, Site]) -> None:
    for name, site in sites.items():
        if not alike(site["scale"], 1.0) or site["mask"] is not None:
            raise PairError(
                f"site {name!r}",
                expected="no scale and no mask, since BetaTCVAE weighs the parts of the KL itself",
                got="one",
                hint="kl_weight=1.0 and BetaTCVAE(…, beta=…)",
            )
