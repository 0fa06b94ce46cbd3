"""Guides with all probability on one configuration of discrete latents, such as an argmin.

    q(z | x) = 1 for one z,   log w = log p(x, z) in every draw

K such weights are equal, so that their variance, effective sample size and Pareto k are those of a perfect guide, while
every other configuration that explains x is missing from the estimate. An exact guide has equal weights too, but gives
other configurations positive probability.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from ppl_vae.compile.distributions import categorical_of, has_probs
from ppl_vae.pairs import sites as traces
from ppl_vae.pairs.pair import Pair
from ppl_vae.pairs.sites import Site

#: Relative tolerance on an effective sample size of K, for the rounding of equal weights.
ROUNDING = 1e-6

#: Data that are checked together.
ROWS = 512


def one_configuration(
    pair: Pair, batch: Mapping[str, Tensor], effective_sample_size: Tensor, num_particles: int
) -> Tensor | None:
    """Return for which data the guide proposes a single configuration, (N,) of bool; None if for none.

    Of data whose K weights are all equal, two draws of the guide are checked: their log q, and whether its
    distributions give other values positive probability. The caller sets the random state and the pair's mode.
    """
    equal = effective_sample_size >= (1 - ROUNDING) * num_particles
    if not bool(equal.any()):
        return None
    found = torch.zeros_like(equal)
    rows = equal.nonzero()[:, 0]
    for some in rows.split(ROWS):
        index = some.to(pair.device)
        found[some] = _alone(pair, {name: value[index] for name, value in batch.items()}).cpu()
    return found if bool(found.any()) else None


def _alone(pair: Pair, batch: Mapping[str, Tensor]) -> Tensor:
    """Return for which of B data the guide is deterministic in every latent, (B,)."""
    sites = traces.trace_pair(*pair.programs(), (), dict(batch), 2).guide.latents
    size, device = len(next(iter(batch.values()))), next(iter(batch.values())).device
    if not sites:  # a model without latents, or one whose every latent is summed out
        return torch.zeros(size, dtype=torch.bool, device=device)
    certain = torch.ones(size, dtype=torch.bool, device=device)
    for site in sites.values():
        value, log_q = site["value"], traces.log_prob(site, scaled=False)
        if value.dim() < 2 or value.shape[0] != 2 or value.shape[1] != size:
            return torch.zeros_like(certain)
        same = (value[0] == value[1]).reshape(size, -1).all(1)
        # A continuous latent has log q far from zero, or infinite.
        sure = (log_q.expand(2, size).abs() <= ROUNDING * max(1, value[0, 0].numel())).all(0)
        certain &= same & sure & ~_has_other_values(site, size)
    return certain


def _has_other_values(site: Site, size: int) -> Tensor:
    """Return for which of B data a site is known to have other values of positive probability, (B,)."""
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    distribution = categorical_of(fn)
    if not isinstance(distribution, Categorical | Bernoulli):
        return torch.zeros(size, dtype=torch.bool, device=site["value"].device)
    # The parameter that was given: the one derived from it is clamped.
    by_probs = has_probs(distribution)
    if isinstance(distribution, Categorical):
        several = ((distribution.probs if by_probs else distribution.logits.exp()) > 0).sum(-1) > 1
    else:
        several = (
            (distribution.probs > 0) & (distribution.probs < 1) if by_probs else torch.isfinite(distribution.logits)
        )
    inside = len(site["fn"].event_shape) - len(fn.event_shape)  # dimensions of one datum
    several = several.expand(2, size, *several.shape[several.dim() - inside :])
    return several[0].reshape(size, -1).any(1)
