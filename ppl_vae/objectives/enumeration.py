"""Enumeration: discrete latents summed out exactly.

A bound is averaged over a latent y enumerated in the guide, with its gradient: sum_y q(y | x) f(y). A latent k that is
only in the model is marginalised out of the joint density: log sum_k p(x, k, z). Each enumerated latent has a dimension
of its own, to the left of the plates'. Nothing is read back from the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.core.errors import PairError
from ppl_vae.objectives.elimination import at_dims, factor, log_sum
from ppl_vae.pairs.plates import PARTICLES, alike
from ppl_vae.pairs.sites import Record, Sites, add, log_prob

#: Latents up to which their product is made at once, as it is small.
_AT_ONCE = 2


class Term(NamedTuple):
    """Log density of one or several sites, masked but not scaled; their common scale; whether one was observed."""

    log_prob: Tensor
    scale: float | Tensor
    observed: bool

    @property
    def scaled(self) -> Tensor:
        """The log density times its scale."""
        return scale_and_mask(self.log_prob, self.scale)


def probability(run: Record) -> Tensor | None:
    """Return q(y | x) of all latents that the guide enumerates, (…, C, B) or (…, C, K, B); None where it has none.

    Masks are ignored: a mask removes terms from a bound, and does not change the guide's distribution.
    """
    sites = run.guide.enumerated.values()
    return add(site["fn"].log_prob(site["value"]) for site in sites).exp() if sites else None


def average(term: Tensor, probability: Tensor | None, plates: int) -> Tensor:
    """Return sum_y q(y | x) term(y), without the dimensions of y; they stand to the left of the last `plates`."""
    if term.dim() <= plates:
        return term
    weighted = term if probability is None else probability * term
    return weighted.sum(list(range(weighted.dim() - plates)))


def marginal(run: Record) -> tuple[list[str], Term | None]:
    """Return the sites that depend on a latent enumerated in the model only, and the log of the sum of their product.

    log sum_k p(k) prod_i p(x_i | k, …), of the shape that is left without k's dimension; ([], None) where there
    is no such latent. The scale stays outside of the logarithm; masks apply inside, but never to p(k), which sums to
    one.

    Raises
    ------
    PairError
        If the sites have different scales (a weight on the KL): no common scale could multiply the log of the sum.
    """
    summed, model = run.summed, run.model
    if not summed:
        return [], None
    dims = [site["infer"]["_enumerate_dim"] for site in summed.values()]
    terms = {
        name: site["fn"].log_prob(site["value"]) if name in summed else log_prob(site, scaled=False)
        for name, site in model.items()
    }
    reached = {
        name: term
        for name, term in terms.items()
        if name in summed or any(term.dim() >= -dim and term.shape[dim] > 1 for dim in dims)
    }
    scale = model[next(iter(summed))]["scale"]
    for name in reached:
        if not alike(model[name]["scale"], scale):
            raise PairError(
                f"site {name!r}",
                expected=f"the scale of {', '.join(summed)}, which the model sums out",
                got="another one",
                hint="no weight on the KL, or a guide that draws or enumerates the latent",
            )
    if len(set(dims)) == len(dims) <= _AT_ONCE:
        total = torch.logsumexp(add(reached.values()), dims)
    else:
        total = _eliminated(run, reached)
    return list(reached), Term(total, scale, any(name in model.observed for name in reached))


def _eliminated(run: Record, reached: dict[str, Tensor]) -> Tensor:
    """Return the log of the sum of many latents, or of those of a Markov chain, one after the other."""
    model = run.model
    frames = [frame.name for name in reached for frame in model[name]["cond_indep_stack"]]
    plates = 2 if PARTICLES in frames else 1
    which = {name: model[name]["infer"].get("_dim_to_id", {}) for name in reached}
    summed = {which[name][site["infer"]["_enumerate_dim"]] for name, site in run.summed.items()}
    found = log_sum((factor(term, which[name], plates) for name, term in reached.items()), summed)
    return at_dims(found, {latent: dim for dims in which.values() for dim, latent in dims.items()}, plates)


def check_enumerated_first(guide: Sites, hint: str) -> None:
    """Raise if the guide enumerates a latent after a draw, on which its distribution may depend."""
    drawn = False
    for name in guide.latents:
        if name in guide.drawn:
            drawn = True
        elif drawn:
            raise PairError(
                f"site {name!r}",
                expected="a latent to be enumerated before any that the guide draws",
                got="one that may depend on a draw",
                hint=hint,
            )
