"""KL(q || p) in closed form, and when a bound may use it.

E_q[log q(z_i | .) - log p(z_i | .)] = E_q[KL(q(z_i | .) || p(z_i | .))]  for latents z_1 … z_L holds only if every
latent that p(z_i | .) conditions on was drawn before z_i in the guide. Otherwise the inner expectation is over the
wrong distribution.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Independent, MultivariateNormal, Normal
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_vae.compile.distributions import scale_tril_of
from ppl_vae.core.errors import PairError
from ppl_vae.pairs.folding import Unfolded
from ppl_vae.pairs.plates import alike
from ppl_vae.pairs.sites import Record, Site


def analytic_kl(q: Any, p: Any) -> Tensor | None:
    """Return KL(q || p) in nats, of the batch shape of both, or None where no closed form is known."""
    if isinstance(q, Unfolded) and isinstance(p, Unfolded):
        if q.mask_within is not p.mask_within or not alike(q.scale_within, p.scale_within):
            return None
        kl = analytic_kl(q.base_dist, p.base_dist)
        return None if kl is None else q.summed(kl)
    if isinstance(q, MultivariateNormal) and _is_diagonal(p):
        return _full_against_diagonal(q, p.base_dist)
    if isinstance(p, MultivariateNormal) and _is_diagonal(q):
        q = MultivariateNormal(q.base_dist.loc, scale_tril=torch.diag_embed(q.base_dist.scale))
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def why_drawn(name: str, run: Record) -> str:
    """Return, as text, why the KL of a latent must be estimated from draws; empty where a closed form is valid.

    Guide and model must condition on the same sampled parents, and have equal scales and masks.
    """
    q, p = run.guide[name], run.model[name]
    if not conditions_match(name, run):
        return "a model that conditions on latents the guide draws later"
    if q["mask"] is not p["mask"] or not alike(q["scale"], p["scale"]):
        return "another scale or mask in the model than in the guide"
    return ""


def conditions_match(name: str, run: Record) -> bool:
    """Return whether every latent the model may draw `name` from was drawn before `name` in the guide.

    The test uses the order of sites only, and so is conservative: every latent before `name` in the model counts as its
    parent. With an auxiliary site in the guide the answer is no, because latents then depend on it in ways that the
    trace does not show.
    """
    return not run.guide.auxiliary and _before(name, run.model.latents) <= _before(name, run.guide.latents)


def freed(name: str, run: Record, free: float) -> Tensor:
    """Return sum_j max(free, mean of KL_j), times the number of data (and particles) and the site's scale.

    KL_j = KL(q(z_j|x) || p(z_j)) of a coordinate, in nats; its mean is over the batch (Kingma et al. 2016).

    Raises
    ------
    PairError
        For a latent whose coordinates are not independent, or without a valid closed form.
    """
    q, p = run.guide.get(name), run.model.get(name)
    if q is not None and p is not None and _is_factorised(q["fn"]) and _is_factorised(p["fn"]):
        single = isinstance(q["scale"], int | float) or q["scale"].dim() == 0
        kl = analytic_kl(q["fn"].base_dist, p["fn"].base_dist)
        valid = not why_drawn(name, run) and q["mask"] is None
        if kl is not None and valid and single:
            means = kl.flatten(0, -2).mean(0)
            return q["scale"] * means.clamp(min=free).sum() * (kl.numel() / len(means))
    raise PairError(
        f"site {name!r}",
        expected="for free bits a latent with a KL in closed form for each coordinate, unmasked",
        got=type(q["fn"]).__name__ if q is not None else "a sum over its values",
        hint="free_bits=0.0, or a guide like AmortizedNormal(…, covariance='diagonal')",
    )


def _is_factorised(fn: Any) -> bool:
    return isinstance(fn, Independent) and fn.reinterpreted_batch_ndims == 1


def _before(name: str, sites: dict[str, Site]) -> set[str]:
    names = list(sites)
    return set(names[: names.index(name)])


def _is_diagonal(fn: Any) -> bool:
    return isinstance(fn, Independent) and isinstance(fn.base_dist, Normal) and fn.reinterpreted_batch_ndims == 1


def _full_against_diagonal(q: Any, p: Any) -> Tensor:
    """Return KL(N(m, TT') || N(n, diag(s^2))) = 1/2 (|T/s|^2 + |(m - n)/s|^2 - L) + sum log s - sum log diag T."""
    T = scale_tril_of(q)
    spread = (T.square().sum(-1) / p.scale.square()).sum(-1)
    shift = ((q.loc - p.loc) / p.scale).square().sum(-1)
    log_volumes = p.scale.log().sum(-1) - T.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (spread + shift - q.event_shape[0]) + log_volumes
