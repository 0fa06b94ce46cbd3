"""Discrete latents summed out exactly.

A latent y that the guide enumerates is averaged over, with its gradient: sum_y q(y | x) f(y). One that the model alone
has is summed out of its joint density: log sum_k p(x, k, z). Every value stands in a dimension of its own, to the left
of the plates'. Nothing is read back from the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.core.errors import PairError
from ppl_vae.pairs.sites import Sites, add, alike, is_enumerated, latents, log_prob


class Term(NamedTuple):
    """Log density of one or several sites, masked but not scaled; their common scale; whether one was observed."""

    log_prob: Tensor
    scale: float | Tensor
    observed: bool

    @property
    def scaled(self) -> Tensor:
        """The log density times its scale."""
        return scale_and_mask(self.log_prob, self.scale)


def enumerated(sites: Sites) -> Sites:
    """Return the latents that are summed out."""
    return {name: site for name, site in latents(sites).items() if is_enumerated(site)}


def probability(guide_sites: Sites) -> Tensor | None:
    """Return q(y | x) of all latents that the guide enumerates, (…, C, B) or (…, C, K, B); None where it has none.

    A mask has no part in it: it takes terms out of a bound, and leaves what a guide's distribution is.
    """
    sites = enumerated(guide_sites).values()
    return add(site["fn"].log_prob(site["value"]) for site in sites).exp() if sites else None


def average(term: Tensor, probability: Tensor | None, plates: int) -> Tensor:
    """Return sum_y q(y | x) term(y), without the dimensions of y; they stand to the left of the last `plates`."""
    if term.dim() <= plates:
        return term
    weighted = term if probability is None else probability * term
    return weighted.sum(list(range(weighted.dim() - plates)))


def marginal(model_sites: Sites, guide_sites: Sites) -> tuple[list[str], Term | None]:
    """Return the sites that depend on a latent which only the model has, and log of their product summed over it.

    log sum_k p(k) prod_i p(x_i | k, …), of the shape that is left without k's dimension; ([], None) where there
    is no such latent. The scale stays outside of the logarithm; masks apply inside, but never to p(k), which sums to
    one.

    Raises
    ------
    PairError
        If the sites have different scales (a weight on the KL): none of them could stand outside the sum.
    """
    summed = {name: site for name, site in enumerated(model_sites).items() if name not in guide_sites}
    if not summed:
        return [], None
    dims = [site["infer"]["_enumerate_dim"] for site in summed.values()]
    terms = {
        name: site["fn"].log_prob(site["value"]) if name in summed else log_prob(site, scaled=False)
        for name, site in model_sites.items()
    }
    reached = {
        name: term
        for name, term in terms.items()
        if name in summed or any(term.dim() >= -dim and term.shape[dim] > 1 for dim in dims)
    }
    scale = model_sites[next(iter(summed))]["scale"]
    for name in reached:
        if not alike(model_sites[name]["scale"], scale):
            raise PairError(
                f"site {name!r}",
                expected=f"the scale of {', '.join(summed)}, which the model sums out",
                got="another one",
                hint="no weight on the KL, or a guide that draws or enumerates the latent",
            )
    total = add(reached.values())
    log_sum = torch.logsumexp(total, dims)
    return list(reached), Term(log_sum, scale, any(model_sites[name]["is_observed"] for name in reached))


def check_enumerated_first(guide_sites: Sites, hint: str) -> None:
    """Raise if the guide enumerates a latent after it drew another, on which its distribution may depend."""
    drawn = False
    for name in latents(guide_sites):
        if name not in enumerated(guide_sites):
            drawn = True
        elif drawn:
            raise PairError(
                f"site {name!r}",
                expected="a latent to be enumerated before any that the guide draws",
                got="one that may depend on a draw",
                hint=hint,
            )
