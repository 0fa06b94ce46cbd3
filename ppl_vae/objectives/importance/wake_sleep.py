"""Reweighted wake-sleep (Bornschein & Bengio 2015).

    wake, theta    maximise  log 1/K sum_k w_k
    wake, phi      maximise  sum_k w~_k log q(z_k | x),  w~ = w / sum w:   KL(p(z | x) || q(z | x)), x from the data
    sleep, phi     maximise  log q(z | x),  (x, z) ~ p:                     the same, x from the model

Draws are held fixed, so that latents may be discrete. Where they are reparameterised, E[w~_k dlog q(z_k)/dphi] =
E[(w~_k - w~_k^2) dlog w_k/dz_k dz_k/dphi] has less variance (Tucker et al. 2019). Enumerated latents y of the
guide are summed over likewise: the bound has 1/K sum_yk w_yk, and w~ is normalised over y too.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.core.checks import share
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import PairError
from ppl_vae.core.types import Program
from ppl_vae.objectives.base import with_value
from ppl_vae.objectives.detached import DetachedDraws
from ppl_vae.objectives.importance.bound import Coefficients, WeightedBound, surrogate, weight_of_log_q
from ppl_vae.objectives.importance.weights import Weighed, common_scale
from ppl_vae.pairs.plates import alike
from ppl_vae.pairs.sites import Record, add, log_prob, sample_sites


@configurable
class ReweightedWakeSleep(WeightedBound):
    """Importance-weighted bound for the model, inclusive KL(p(z | x) || q(z | x)) for the guide.

    Its value is the bound. Model and guide may share parameters: their gradient is the sum of both.

    Parameters
    ----------
    num_particles : int
        K, draws per datum; for K = 1 the guide learns nothing from the data.
    insomnia : float
        Weight of the guide's wake phase; 1 - insomnia is that of its sleep phase.
    gradient : {"score", "dreg"}
        Estimator of the guide's wake phase: with draws held fixed, or through reparameterised draws.

    Raises
    ------
    InputError
        If `insomnia` is not between 0 and 1.
    PairError
        For a weight on the KL, which the wake phase does not have; for a global latent; in the sleep phase, for a guide
        that does not take the observed tensor as an argument.
    """

    recordable = True
    GRADIENTS = ("dreg", "score")
    SUMS_INSIDE = True

    def __init__(
        self, num_particles: int = 10, insomnia: float = 1.0, gradient: Literal["score", "dreg"] = "score"
    ) -> None:
        super().__init__(num_particles, gradient)
        self.insomnia = share("insomnia", insomnia)

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch, as a tensor to differentiate."""
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        if self.insomnia == 1 or not torch.is_grad_enabled():
            return loss
        return with_value(loss, -(1 - self.insomnia) * _asleep(model, guide, args, kwargs))

    def detached(self) -> DetachedDraws:
        """Return a handler that holds draws fixed."""
        return DetachedDraws(through=self.gradient == "dreg")

    def bound(self, log_w: Tensor) -> Tensor:
        """Return log 1/K sum_k w_k, summed over enumerated latents too, (B,)."""
        return torch.logsumexp(log_w.flatten(0, -2), 0) - math.log(log_w.shape[-2])

    def slopes(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return w~ = w / sum w, over enumerated latents too, and w~ - w~^2."""
        a = torch.softmax(log_w.flatten(0, -2), 0).view_as(log_w)
        return a, a - a.square()

    def natural(self, weighed: Weighed, run: Record) -> Tensor:
        """Return the bound of the batch."""
        return self._summed(weighed)

    def estimate(self, weighed: Weighed, coefficients: Coefficients, detached: DetachedDraws) -> Tensor:
        """Return the bound of the batch, with the gradient of the wake phases."""
        with torch.no_grad():
            value = self._summed(weighed)
        log_q = weighed.log_q if weighed.log_y is None else weighed.log_q + weighed.log_y
        return with_value(value, surrogate(coefficients, weighed.log_p, log_q, weighed.scale, detached))

    def _summed(self, weighed: Weighed) -> Tensor:
        return (weighed.scale * self.bound(weighed.log_w)).sum()

    def coefficients(self, weighed: Weighed, run: Record) -> Coefficients:
        """Return w~ for the model; for the guide, -w~ with draws held fixed, or w~ - w~^2 through them."""
        a, b = self.slopes(weighed.log_w)
        if self.gradient == "dreg":
            return Coefficients(a, self.insomnia * weight_of_log_q(weighed, run) * b, None)
        return Coefficients(a, None, -self.insomnia * a)

    def check(self, run: Record) -> None:
        """Raise for a weight on the KL, and for a latent whose distribution the estimator does not support."""
        scale = common_scale(run.model)
        for name, site in [*run.model.latents.items(), *run.guide.latents.items()]:
            if not alike(site["scale"], scale):
                raise PairError(
                    f"site {name!r}",
                    expected="no weight on the KL, since the guide's wake phase has none",
                    got="another scale than that of the observed sites",
                    hint="kl_warmup=0, or ppl_vae.objectives.IWELBO()",
                )
        if self.gradient == "dreg":
            super().check(run)
            for name in run.guide.enumerated:
                raise PairError(
                    f"site {name!r}",
                    expected="no latent to be enumerated, for gradient='dreg'",
                    got="one",
                    hint="gradient='score'",
                )


def _asleep(model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return log q(z | x), summed over one draw of (x, z) from the model for each datum.

    Raises
    ------
    PairError
        If the guide cannot be run on the draw: the observed tensor is no argument, or it has latents of its own.
    """
    with torch.no_grad():
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    dreamt = {name: site for name, site in sample_sites(trace).items() if site["infer"].get("was_observed")}
    for name, site in dreamt.items():
        real = site["infer"]["obs"]
        if not any(value is real for value in [*args, *kwargs.values()]):
            raise PairError(
                f"site {name!r}",
                expected="what the model observes to be an argument as it stands, for the sleep phase to put its own",
                got="something else",
                hint=f"pyro.sample({name!r}, …, obs={name}), or insomnia=1",
            )

    def swap(value: Any) -> Any:
        return next((site["value"] for site in dreamt.values() if site["infer"]["obs"] is value), value)

    asleep = poutine.replay(guide, trace=trace)
    guide_trace = poutine.trace(asleep).get_trace(*map(swap, args), **{k: swap(v) for k, v in kwargs.items()})
    sites = sample_sites(guide_trace).latents
    for name in sites:
        if name not in trace:
            raise PairError(
                f"site {name!r}",
                expected="only latents of the model in the guide, for the sleep phase",
                got="one it lacks",
                hint="insomnia=1",
            )
    return add(log_prob(site).sum() for site in sites.values())
