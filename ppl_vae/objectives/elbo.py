"""The evidence lower bound.

    ELBO(x) = E_{q(z|x)}[log p(x, z) - log q(z|x)] = E_{q(z|x)}[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x)

(Kingma & Welling 2014, eq. 3; Rezende et al. 2014.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.core.checks import not_negative, one_of
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import InputError, PairError
from ppl_vae.core.types import Program
from ppl_vae.objectives.base import Objective, check_sites, factors, with_value
from ppl_vae.objectives.detached import DetachedDraws
from ppl_vae.objectives.enumeration import average, check_enumerated_first, marginal, probability
from ppl_vae.objectives.kl import analytic_kl, freed, why_drawn
from ppl_vae.pairs.plates import in_data_plate
from ppl_vae.pairs.sites import Record, Sites, add, log_prob, trace_pair

KLS = ("auto", "analytic", "sampled")
GRADIENTS = ("reparameterised", "stl")


@configurable
class ELBO(Objective):
    """Evidence lower bound, estimated with K reparameterised particles drawn at once.

    Its loss is the negative bound in nats, summed over the batch, as in every `pyro.infer.ELBO`; no value is read back
    from the device. Guide sites without a reparameterised sampler get the score-function gradient, with the other
    particles' mean as a baseline where K > 1; enumerated sites are summed out.

    Parameters
    ----------
    num_particles : int
        K, draws per datum.
    kl : {"auto", "analytic", "sampled"}
        Whether KL(q || p) of a latent is taken in closed form. ``"auto"`` does so wherever it is valid and known, site
        by site; ``"analytic"`` raises where it is not; ``"sampled"`` never does.
    gradient : {"reparameterised", "stl"}
        ``"stl"`` omits the direct gradient of log q(z | x), whose mean is zero, so that the gradient has no variance
        where the guide is the posterior (Roeder et al. 2017). It needs ``kl="sampled"``.
    free_bits : float, or mapping of str to float
        Nats of KL per coordinate of a latent that are not penalised: the KL becomes
        sum_j max(free_bits, mean over the batch of KL_j) (Kingma et al. 2016). A number applies to every latent, a
        mapping such as ``{"z2": 0.1}`` to those it names. Neither `distortion_and_rate` nor validation has it.

    Raises
    ------
    PairError
        With ``kl="analytic"``, for a site whose closed form is unknown, or would be wrong because guide and model do
        not condition on the same sampled latents. With ``gradient="stl"``, for a latent that is not reparameterised.
        For an enumerated global latent. With ``free_bits``, for a latent without a KL in closed form
        for each coordinate.

    Examples
    --------
    >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=ELBO())     # doctest: +SKIP
    """

    #: Its loss reads nothing back, so a step can be recorded.
    recordable = True

    def __init__(
        self,
        num_particles: int = 1,
        kl: Literal["auto", "analytic", "sampled"] = "auto",
        gradient: Literal["reparameterised", "stl"] = "reparameterised",
        free_bits: float | Mapping[str, float] = 0.0,
    ) -> None:
        super().__init__(num_particles)
        one_of("kl", kl, KLS)
        one_of("gradient", gradient, GRADIENTS)
        if gradient == "stl" and kl != "sampled":
            raise InputError(
                "gradient 'stl'",
                expected="kl='sampled', since a KL in closed form has no draws to differentiate through",
                got=f"kl={kl!r}",
                hint="ELBO(kl='sampled', gradient='stl')",
            )
        expected = "nats per coordinate, 0 or more"
        self.free_bits: float | dict[str, float]
        if isinstance(free_bits, Mapping):
            self.free_bits = {name: not_negative(f"free_bits of {name}", v, expected) for name, v in free_bits.items()}
        else:
            self.free_bits = not_negative("free_bits", free_bits, expected)
        if self.free_bits and kl == "sampled":
            raise InputError("free_bits", expected="a KL in closed form", got="kl='sampled'", hint="kl='auto'")
        self.kl = kl
        self.gradient = gradient

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound as a tensor to differentiate."""
        detached = DetachedDraws() if self.gradient == "stl" and torch.is_grad_enabled() else None
        run = self._get_trace(model, guide, args, kwargs, detached)
        distortion, rate = self.terms(run)
        if self.free_bits:
            free = self.free_bits if isinstance(self.free_bits, dict) else dict.fromkeys(rate, self.free_bits)
            for name, nats in free.items():
                one_of("latent of free_bits", name, rate)
                rate[name] = freed(name, run, nats)
        terms = [*distortion.values(), *rate.values()]
        loss = add([term.sum() for term in terms]) / self.num_particles
        if run.factors:
            loss = loss + factors(run, self._plates)
        self._check_gradient(run)
        if detached is None:
            return loss + self._score_term(run, terms) if run.guide.unreparameterised else loss
        q = probability(run)
        fixed = None if q is None else q.detach()
        direct = add(average(log_prob(run.guide[name]), fixed, self._plates).sum() for name in detached.detached)
        return with_value(loss, detached.path(loss) - direct / self.num_particles)

    def distortion_and_rate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return distortion and rate, whose sum is the loss, each summed over the batch, in nats."""
        distortion, rate = self.terms(self._get_trace(model, guide, args, kwargs))
        return {
            "distortion": add(term.sum() for term in distortion.values()) / self.num_particles,
            "rate": add(term.sum() for term in rate.values()) / self.num_particles,
        }

    def terms(self, run: Record) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return distortion and rate, whose sum is the loss, by site, each of shape (B,) or (K, B), in nats.

        Distortion: -log p(x | z) of each observed site. Rate: log q(z | x) - log p(z), or KL(q || p), of each latent.
        Sites that depend on a latent enumerated in the model are one term.
        """
        check_sites(run)
        distortion: dict[str, Tensor] = {}
        rate: dict[str, Tensor] = {}
        guide, (merged, term) = run.guide, marginal(run)
        if term is not None:
            (distortion if term.observed else rate)[", ".join(merged)] = -term.scaled
        for name, site in run.model.items():
            if site["is_observed"] and name not in merged:
                distortion[name] = -log_prob(site)
            elif name in guide and (kl := self._analytic(name, run)) is not None:
                rate[name] = kl
            elif name in guide:
                rate[name] = _log_q(name, guide) - (0.0 if name in merged else log_prob(site))
        for name in guide.auxiliary:  # an AutoGuide's joint draw
            rate[name] = _log_q(name, guide)
        q = probability(run)
        for part in (distortion, rate):
            part.update({name: average(term, q, self._plates) for name, term in part.items()})
        return distortion, rate

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any, around_guide: Any = None) -> Record:
        particles = self.num_particles if self.num_particles > 1 else None
        return trace_pair(model, guide, args, kwargs, particles, enumerated=True, around_guide=around_guide)

    @property
    def _plates(self) -> int:
        """How many plates a term has: the data's and, where K > 1, the particles'."""
        return 1 if self.num_particles == 1 else 2

    def _check_gradient(self, run: Record) -> None:
        """Raise for a latent whose distribution the gradient estimator does not support."""
        scores = run.guide.unreparameterised
        if scores and self.gradient == "stl":
            raise PairError(
                f"site {scores[0]!r}",
                expected="a latent with a reparameterised sampler, for gradient='stl'",
                got=type(run.guide[scores[0]]["fn"]).__name__,
                hint="gradient='reparameterised', which takes the score function, or infer={'enumerate': 'parallel'}",
            )
        if scores and run.guide.enumerated:
            raise PairError(
                f"site {scores[0]!r}",
                expected="a latent that is enumerated too, or reparameterised, beside an enumerated one",
                got=type(run.guide[scores[0]]["fn"]).__name__,
                hint="infer={'enumerate': 'parallel'}",
            )
        if self.gradient == "stl":
            check_enumerated_first(run.guide, "gradient='reparameterised', or another order in the guide")

    def _analytic(self, name: str, run: Record) -> Tensor | None:
        """Return KL(q || p) of a latent where it is valid and known, else None; raise if it was asked for."""
        q, p = run.guide[name], run.model[name]
        if self.kl == "sampled" or name in run.guide.enumerated:  # whose sum is exact already
            return None
        reason = why_drawn(name, run)
        kl = analytic_kl(q["fn"], p["fn"]) if not reason else None
        if kl is not None:
            return scale_and_mask(kl, q["scale"], q["mask"])
        if self.kl == "analytic":
            raise PairError(
                f"site {name!r}",
                expected="a KL in closed form",
                got=reason or f"no closed form for {type(q['fn']).__name__} and {type(p['fn']).__name__}",
                hint="kl='auto' or kl='sampled'",
            )
        return None

    def _score_term(self, run: Record, terms: list[Tensor]) -> Tensor:
        """Return zero, with gradient E[grad log q(z) (loss - baseline)] for latents that cannot be reparameterised.

        The loss is that of each datum where all sites are local, else that of the whole batch.
        """
        scores = [run.guide[name] for name in run.guide.unreparameterised]
        local = all(in_data_plate(site) for site in (run.model | run.guide).values())
        shape = (lambda term: term) if local else self._per_particle
        reward = add(map(shape, terms)).detach()
        if self.num_particles > 1:
            reward = (reward - reward.mean(0)) * self.num_particles / (self.num_particles - 1)
        log_q = add(shape(log_prob(site, scaled=False)) for site in scores)
        surrogate = (log_q * reward).sum() / self.num_particles
        return surrogate - surrogate.detach()

    def _per_particle(self, term: Tensor) -> Tensor:
        return term.reshape(self.num_particles, -1).sum(-1)


def _log_q(name: str, guide: Sites) -> Tensor:
    """Return log q(z | x), detached where the score-function gradient is used: its own gradient has mean zero."""
    log_q = log_prob(guide[name])
    return log_q.detach() if name in guide.unreparameterised else log_q
