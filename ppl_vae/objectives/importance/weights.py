"""The log weights of one run of a pair, as a bound needs them.

    log w[y, k, b] = log p(x_b, y, z_ykb) - log q(z_ykb | x_b, y)

The common scale of all observed sites (from subsampling the data) is the weight of a datum: it multiplies the bound of
the datum, and stays outside of any logarithm. A latent's scale divided by it is a weight beta on the latent's KL,
beta (log p(z) - log q(z | x)), and goes inside.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.core.errors import PairError
from ppl_vae.objectives.base import check_sites
from ppl_vae.objectives.enumeration import Term, check_enumerated_first, marginal, probability
from ppl_vae.pairs.plates import alike, is_sequential, other_plates
from ppl_vae.pairs.sites import Record, Site, Sites, add, is_deterministic, log_prob, one_by_one

#: What the messages about sites without a log weight expected.
_LOCAL = "a local site, inside pyro.plate('data', B, dim=-1), so that a log weight belongs to one datum"


@dataclass(frozen=True)
class Weighed:
    """Log densities of one run of a pair, each (…, K, B), with leading dimensions for enumerated latents of the guide.

    Attributes
    ----------
    log_p : Tensor
        log p(x, y, z), with each latent's term times its weight.
    log_q : Tensor
        log q(z | x, y) of the drawn latents, each times its weight.
    scale : float or Tensor
        Weight of a datum; shape () or (B,).
    probability, log_y : Tensor, optional
        q(y | x) and, times its weight, log q(y | x) of the enumerated latents, each (…, 1, B).
    """

    log_p: Tensor
    log_q: Tensor
    scale: float | Tensor
    probability: Tensor | None
    log_y: Tensor | None

    @property
    def log_w(self) -> Tensor:
        """Log weights (…, K, B)."""
        return self.log_p - self.log_q

    @property
    def factor(self) -> float | Tensor:
        """Weight of the bound of a datum (and a value of y); broadcasts to (…, K, B)."""
        return self.scale if self.probability is None else self.scale * self.probability

    def total(self, bounds: Tensor) -> Tensor:
        """Return sum_b scale_b sum_y q(y | x_b) (bound[y, b] - log q(y | x_b)) of `bounds` (…, B)."""
        bounds = bounds.unsqueeze(-2)
        if self.log_y is not None:
            bounds = bounds - self.log_y
        return (self.factor * bounds).sum()


def weigh(run: Record, *, inside: bool = False) -> Weighed:
    """Return the log weights of a run with a particle plate, (…, K, B).

    With `inside`, the bound sums over enumerated latents y inside its logarithm, where p(y) must not be masked: it sums
    to one.

    Raises
    ------
    PairError
        For sites that do not match, or are not local; where observed sites have different scales, or a latent has
        different scales in model and guide; for a latent that is enumerated after another one is drawn.
    """
    check_sites(run)
    _check_local(run)
    scale = common_scale(run.model)
    merged, term = marginal(run)
    terms = [] if term is None else [term]
    summed = run.guide.enumerated
    for name, site in run.model.items():
        if name not in merged:
            terms.append(_term(site | {"mask": None} if inside and name in summed else site))
    drawn = [_term(site) for site in run.guide.drawn.values()]
    log_p = _sum(terms, scale)
    log_q = _sum(drawn, scale) if drawn else log_p.new_zeros(())
    q, log_y = probability(run), None
    if q is not None:
        q, log_y = q[..., :1, :], _sum([_term(site) for site in summed.values()], scale)[..., :1, :]
    return Weighed(log_p, log_q, scale, q, log_y)


def common_scale(model: Sites) -> float | Tensor:
    """Return the scale of the observed sites; raise if there are several."""
    observed = model.observed
    scales = [site["scale"] for site in observed.values()] or [1.0]
    for name, site in observed.items():
        if not alike(site["scale"], scales[0]):
            raise PairError(
                f"site {name!r}",
                expected=f"the scale of {next(iter(observed))!r}: one for all observed sites, which counts the data",
                got="another one",
                hint="ppl_vae.objectives.ELBO()",
            )
    return scales[0]


def _term(site: Site) -> Term:
    return Term(log_prob(site, scaled=False), site["scale"], site["is_observed"])


def _sum(terms: list[Term], scale: float | Tensor) -> Tensor:
    """Return the sum of log densities, each times its own scale divided by the common one."""
    return add(
        term.log_prob if alike(term.scale, scale) else scale_and_mask(term.log_prob, term.scale / scale)
        for term in terms
    )


def _check_local(run: Record) -> None:
    for sites in (run.guide, run.model):
        for name, site in sites.items():
            if is_deterministic(site):
                continue
            if is_sequential(site):
                raise one_by_one(name)
            others = other_plates(site)
            if name in sites.shared or others:
                got = f"a site in the plate {others[0]!r}" if others else "a site outside it"
                raise PairError(f"site {name!r}", expected=_LOCAL, got=got, hint="ppl_vae.objectives.ELBO()")
    for name, site in run.guide.latents.items():
        if name in run.model and not _scales_may_agree(site["scale"], run.model[name]["scale"]):
            raise PairError(
                f"site {name!r}",
                expected="one scale in model and guide",
                got=f"{run.model[name]['scale']:g} and {site['scale']:g}",
                hint="the same pyro.poutine.scale around both",
            )
    check_enumerated_first(run.guide, "ppl_vae.objectives.ELBO(), or another order in the guide")


def _scales_may_agree(a: float | Tensor, b: float | Tensor) -> bool:
    """Return whether two scales may be equal; the values of tensors are not read."""
    return isinstance(a, Tensor) or isinstance(b, Tensor) or a == b
