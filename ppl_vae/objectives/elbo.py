"""The evidence lower bound.

    ELBO(x) = E_{q(z|x)}[log p(x, z) - log q(z|x)] = E_{q(z|x)}[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x)

(Kingma & Welling 2014, eq. 3; Rezende et al. 2014.)
"""

from __future__ import annotations

from typing import Any, Literal

import pyro.infer
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.config import configurable
from ppl_vae.errors import PairError, unknown_name
from ppl_vae.objectives.kl import analytic_kl, conditions_match, weights_match
from ppl_vae.shapes import integer_at_least
from ppl_vae.traces import Sites, add, in_data_plate, is_auxiliary, is_enumerated, latents, log_prob, trace_pair
from ppl_vae.types import Program

KLS = ("auto", "analytic", "sampled")


@configurable
class ELBO(pyro.infer.ELBO):
    """Evidence lower bound, estimated with K reparameterised particles drawn at once.

    Its loss is the negative bound in nats, summed over the batch, as in every `pyro.infer.ELBO`; no value is read back
    from the device. Guide sites without a reparameterised sampler get the score-function gradient, with the other
    particles' mean as a baseline where K > 1.

    Parameters
    ----------
    num_particles : int
        K, draws per datum.
    kl : {"auto", "analytic", "sampled"}
        Whether KL(q || p) of a latent is taken in closed form. ``"auto"`` does so wherever it is valid and known, site
        by site; ``"analytic"`` raises where it is not; ``"sampled"`` never does.

    Raises
    ------
    PairError
        With ``kl="analytic"``, for a site whose closed form is unknown, or would be wrong because guide and model do
        not condition on the same sampled latents. For a site that asks to be enumerated.

    Examples
    --------
    >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=ELBO())     # doctest: +SKIP
    """

    #: Its loss reads nothing back, so a step can be recorded.
    recordable = True

    def __init__(self, num_particles: int = 1, kl: Literal["auto", "analytic", "sampled"] = "auto") -> None:
        num_particles = integer_at_least("num_particles", num_particles, 1)
        if kl not in KLS:
            raise unknown_name("kl", kl, KLS)
        super().__init__(num_particles=num_particles, max_plate_nesting=1, vectorize_particles=True)
        self.kl = kl

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound, summed over the batch, in nats."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs)

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound, having added its gradient to every parameter's."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return the negative bound as a tensor to differentiate."""
        model_sites, guide_sites = self._get_trace(model, guide, args, kwargs)
        distortion, rate = self.terms(model_sites, guide_sites)
        terms = [*distortion.values(), *rate.values()]
        loss = add(term.sum() for term in terms) / self.num_particles
        return loss + self._score_term(model_sites, guide_sites, terms)

    def halves(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return distortion and rate, whose sum is the loss, each summed over the batch, in nats."""
        distortion, rate = self.terms(*self._get_trace(model, guide, args, kwargs))
        return {
            "distortion": add(term.sum() for term in distortion.values()) / self.num_particles,
            "rate": add(term.sum() for term in rate.values()) / self.num_particles,
        }

    def terms(self, model_sites: Sites, guide_sites: Sites) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the two halves of the loss by site, each of shape (B,) or (K, B), in nats.

        Distortion: -log p(x | z) of each observed site. Rate: log q(z | x) - log p(z), or KL(q || p), of each latent.
        """
        distortion, rate = {}, {}
        for name, site in model_sites.items():
            if site["is_observed"]:
                distortion[name] = -log_prob(site)
            elif is_enumerated(site) or (name in guide_sites and is_enumerated(guide_sites[name])):
                raise PairError(
                    f"site {name!r}",
                    expected="a latent to be sampled",
                    got="one to be enumerated",
                    hint="pyro.infer.TraceEnum_ELBO",
                )
            elif name not in guide_sites:
                raise PairError(
                    f"site {name!r}", expected="every latent sampled by the guide", got="a guide without it"
                )
            elif self.kl != "sampled" and (kl := self._analytic(name, model_sites, guide_sites)) is not None:
                rate[name] = kl
            else:
                rate[name] = log_prob(guide_sites[name]) - log_prob(site)
        for name, site in latents(guide_sites).items():
            if is_auxiliary(site):  # an AutoGuide's joint draw
                rate[name] = log_prob(site)
            elif name not in model_sites:
                raise PairError(f"site {name!r}", expected="only latents of the model in the guide", got="one it lacks")
        return distortion, rate

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> tuple[Sites, Sites]:
        particles = self.num_particles if self.num_particles > 1 else None
        return trace_pair(model, guide, args, kwargs, particles)

    def _analytic(self, name: str, model_sites: Sites, guide_sites: Sites) -> Tensor | None:
        """Return KL(q || p) of a latent where it is valid and known, else None; raise if it was asked for."""
        q, p = guide_sites[name], model_sites[name]
        refusal = ""
        if not conditions_match(name, model_sites, guide_sites):
            refusal = "a model that conditions on latents the guide draws later"
        elif not weights_match(q, p):
            refusal = "another scale or mask in the model than in the guide"
        kl = analytic_kl(q["fn"], p["fn"]) if not refusal else None
        if kl is not None:
            return scale_and_mask(kl, q["scale"], q["mask"])
        if self.kl == "analytic":
            raise PairError(
                f"site {name!r}",
                expected="a KL in closed form",
                got=refusal or f"no closed form for {type(q['fn']).__name__} and {type(p['fn']).__name__}",
                hint="kl='auto' or kl='sampled'",
            )
        return None

    def _score_term(self, model_sites: Sites, guide_sites: Sites, terms: list[Tensor]) -> Tensor | float:
        """Return zero, with gradient E[grad log q(z) (loss - baseline)] for latents that cannot be reparameterised.

        The loss is that of the site's own datum where every site belongs to a datum, else that of the whole batch.
        """
        scores = [site for site in latents(guide_sites).values() if not site["fn"].has_rsample]
        if not scores:
            return 0.0
        local = all(in_data_plate(site) for site in (model_sites | guide_sites).values())
        shape = (lambda term: term) if local else self._per_particle
        reward = add(map(shape, terms)).detach()
        if self.num_particles > 1:
            reward = (reward - reward.mean(0)) * self.num_particles / (self.num_particles - 1)
        log_q = add(shape(log_prob(site, scaled=False)) for site in scores)
        surrogate = (log_q * reward).sum() / self.num_particles
        return surrogate - surrogate.detach()

    def _per_particle(self, term: Tensor) -> Tensor:
        return term.reshape(self.num_particles, -1).sum(-1)
