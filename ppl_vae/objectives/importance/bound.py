"""Importance-weighted bounds, and the estimators of their gradient.

A bound is a function L of the K log weights of a datum. With a_k = dL / d log w_k and b_k = d a_k / d log w_k,

    dL/dtheta = sum_k a_k dlog p(x, z_k)/dtheta                                                               (model)
    dL/dphi   = sum_k a_k dlog w_k/dz_k dz_k/dphi - sum_k a_k dlog q(z_k | x)/dphi, z fixed         (path and direct)

Estimators differ in the coefficients of the model, path and direct parts, and have the same mean:

    reparameterised    a, a, a          the total derivative (Kingma & Welling 2014)
    stl                a, a, a - 1/K    minus 1/K dlog q(z_k), whose mean is zero (Roeder et al. 2017)
    dreg               a, a - b, 0      E[a_k dlog q(z_k)] = E[b_k dlog w_k/dz_k dz_k/dphi] (Tucker et al. 2019)
    vimco              a, a, a, and the score function of latents that cannot be reparameterised (`IWELBO`)

For K = 1, ``stl`` is that of the paper. For K > 1 the paper's estimator omits the direct part altogether, which is
biased, as Tucker et al. show; here only its zero-mean part is omitted, and the gradient still has no variance where the
guide is the posterior.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.core.checks import one_of
from ppl_vae.core.errors import PairError
from ppl_vae.core.types import Program
from ppl_vae.objectives.base import Objective, factors, with_value
from ppl_vae.objectives.detached import DetachedDraws
from ppl_vae.objectives.importance.weights import Weighed, weigh
from ppl_vae.pairs.plates import alike
from ppl_vae.pairs.sites import Record, trace_pair


class Coefficients(NamedTuple):
    """Coefficients of the three parts of a gradient, each (…, K, B); None stands for zero."""

    model: Tensor
    path: Tensor | None
    direct: Tensor | None


def surrogate(
    parts: Coefficients, log_p: Tensor, log_q: Tensor, factor: float | Tensor, detached: DetachedDraws
) -> Tensor:
    """Return a tensor whose gradient is the sum of the three parts, each times its coefficient and `factor`."""
    total = (factor * parts.model * log_p).sum()
    if parts.direct is not None:
        total = total - (factor * parts.direct * log_q).sum()
    if parts.path is not None:
        total = total + detached.path((factor * parts.path * (log_p - log_q)).sum())
    return total


class WeightedBound(Objective):
    """A function of the log weights of a datum, maximised with one of several estimators of its gradient.

    A concrete class defines `bound` and `slopes`.

    Parameters
    ----------
    num_particles : int
        K, draws per datum.
    gradient : str
        The estimator, one of `GRADIENTS`.
    """

    GRADIENTS: tuple[str, ...] = ("dreg", "reparameterised", "stl")
    #: Whether enumerated latents of the guide are summed over inside the bound, rather than averaged over outside it.
    SUMS_INSIDE = False

    def __init__(self, num_particles: int, gradient: str) -> None:
        super().__init__(num_particles)
        one_of("gradient", gradient, self.GRADIENTS)
        self.gradient = gradient

    @abstractmethod
    def bound(self, log_w: Tensor) -> Tensor:
        """Return the bound (…, B) of log weights (…, K, B)."""

    @abstractmethod
    def slopes(self, log_w: Tensor) -> tuple[Tensor, Tensor]:
        """Return a_k = dL / d log w_k and b_k = d a_k / d log w_k, each (…, K, B)."""

    @property
    def draws(self) -> int:
        """Draws per datum in all."""
        return self.num_particles

    def detached(self) -> DetachedDraws | None:
        """Return a handler that separates the parts of the gradient; None to differentiate the bound directly."""
        return DetachedDraws() if self.gradient in ("stl", "dreg") else None

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return minus the bound, summed over the batch, as a tensor to differentiate."""
        detached = self.detached() if torch.is_grad_enabled() else None
        run = self._get_trace(model, guide, args, kwargs, detached)
        weighed = weigh(run, inside=self.SUMS_INSIDE)
        self.check(run)
        own = factors(run, plates=2)
        if own.requires_grad and detached is not None and detached.through:
            own = with_value(own, detached.path(own))
        if detached is None:
            return own - self.natural(weighed, run)
        with torch.no_grad():
            coefficients = self.coefficients(weighed, run)
        return own - self.estimate(weighed, coefficients, detached)

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any, around_guide: Any = None) -> Record:
        return trace_pair(model, guide, args, kwargs, self.draws, enumerated=True, around_guide=around_guide)

    def natural(self, weighed: Weighed, run: Record) -> Tensor:
        """Return the bound of the batch, to be differentiated directly."""
        return weighed.total(self.bound(weighed.log_w))

    def estimate(self, weighed: Weighed, coefficients: Coefficients, detached: DetachedDraws) -> Tensor:
        """Return the bound of the batch, whose gradient has the given coefficients."""
        value = weighed.total(self.bound(weighed.log_w.detach()))  # with the gradient of q(y | x), y enumerated
        factor = weighed.factor.detach() if isinstance(weighed.factor, Tensor) else weighed.factor
        return with_value(value, surrogate(coefficients, weighed.log_p, weighed.log_q, factor, detached))

    def coefficients(self, weighed: Weighed, run: Record) -> Coefficients:
        """Return the estimator's coefficients of the parts of the gradient."""
        a, b = self.slopes(weighed.log_w)
        if self.gradient == "stl":
            return Coefficients(a, a, a - 1 / self.draws)
        if self.gradient == "dreg":
            return Coefficients(a, a - weight_of_log_q(weighed, run) * b, None)
        return Coefficients(a, a, a)

    def check(self, run: Record) -> None:
        """Raise for a latent whose distribution the gradient estimator does not support."""
        for name in run.guide.unreparameterised:
            raise PairError(
                f"site {name!r}",
                expected=f"a latent with a reparameterised sampler, for gradient={self.gradient!r}",
                got=type(run.guide[name]["fn"]).__name__,
                hint="IWELBO(gradient='vimco'), ReweightedWakeSleep(), or infer={'enumerate': 'parallel'}",
            )


def weight_of_log_q(weighed: Weighed, run: Record) -> float | Tensor:
    """Return the factor of log q(z | x) in log w, which must be the same for all drawn latents.

    A mask is a factor of zero: masked terms have no direct gradient, and so need no replacement for it.

    Raises
    ------
    PairError
        If the latents differ in scale or mask.
    """
    drawn = list(run.guide.drawn.values())
    for site in drawn:
        if not alike(site["scale"], drawn[0]["scale"]) or site["mask"] is not drawn[0]["mask"]:
            raise PairError(
                f"site {site['name']!r}",
                expected=f"the scale and mask of {drawn[0]['name']!r}, for gradient='dreg'",
                got="others",
                hint="gradient='reparameterised'",
            )
    if not drawn:
        return 1.0
    scale, mask = drawn[0]["scale"], drawn[0]["mask"]
    weight = 1.0 if alike(scale, weighed.scale) else scale / weighed.scale
    return weight if mask is None else weight * mask
