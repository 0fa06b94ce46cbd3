"""Likelihoods p(x|z) of binary, real and grey data, and the table of all likelihoods by name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.core.checks import integer_at_least, positive
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import unknown_name
from ppl_vae.core.shapes import as_widths
from ppl_vae.nn.distributions.grey_levels import DiscretizedLogistic as DiscretizedLogisticDistribution
from ppl_vae.nn.distributions.grey_levels import GridCategorical
from ppl_vae.nn.likelihoods.base import Likelihood


@configurable
class Bernoulli(Likelihood):
    """p(x = 1) = sigmoid(h) for x in {0, 1}."""

    def distribution(self, parameters: Tensor) -> Any:
        """Return Bernoulli by logits (..., *x_shape, 1)."""
        return dist.Bernoulli(logits=parameters.squeeze(-1))


@configurable
class Normal(Likelihood):
    """N(h, s^2) for real x, with s fixed, learned, or from the decoder.

    Parameters
    ----------
    scale : float or {"learned", "decoder"}
        A number fixes s: log p(x|z) is then the squared error times -1/(2 s^2), plus a constant. ``"learned"`` is one s
        for all coordinates, or for each (see `shape`), a parameter of this module. ``"decoder"`` is one per coordinate
        and datum, from the second half of the decoder's output: s = softplus(h') + minimum_scale (Kingma & Welling
        2014, appendix C.2, but for the softplus).
    initial_scale : float
        Initial value of a learned s.
    shape : tuple of int
        Of a learned s: one for all coordinates, or x_shape for one each.
    minimum_scale : float
        Floor of a decoder's s: without one, the likelihood is unbounded once a coordinate is reproduced exactly.

    Raises
    ------
    InputError
        If a scale is not above zero, or its name unknown.
    """

    def __init__(
        self,
        scale: float | str = 0.1,
        *,
        initial_scale: float = 0.1,
        minimum_scale: float = 1e-3,
        shape: Sequence[int] = (),
    ) -> None:
        super().__init__()
        initial_scale = positive("initial_scale", initial_scale)
        self.minimum_scale = positive("minimum_scale", minimum_scale)
        if isinstance(scale, str) and scale not in ("learned", "decoder"):
            raise unknown_name("scale of Normal", scale, ("learned", "decoder"))
        self.scale = scale if isinstance(scale, str) else positive("scale", scale)
        if scale == "decoder":
            self.parameters_per_dim = 2
        elif scale == "learned":
            self.log_scale = nn.Parameter(torch.full(as_widths("shape", shape), initial_scale).log())

    def distribution(self, parameters: Tensor) -> Any:
        """Return Normal for (..., *x_shape, P): the mean, then, where P = 2, the scale before softplus."""
        if self.scale == "decoder":
            loc, raw_scale = parameters.unbind(-1)
            return dist.Normal(loc, F.softplus(raw_scale) + self.minimum_scale)
        loc = parameters.squeeze(-1)
        if self.scale == "learned":
            return dist.Normal(loc, self.log_scale.exp())
        # Filled on the device: a number given to Normal would be copied from the host at every call.
        return dist.Normal(loc, torch.full((), float(self.scale), dtype=loc.dtype, device=loc.device))


@configurable
class Categorical(Likelihood):
    """p(x = k/(n-1)) = softmax(h)_k: one logit per grey level, with no order among them (van den Oord et al. 2016).

    Parameters
    ----------
    levels : int
        n, at least 2; 256 for bytes.

    Raises
    ------
    InputError
        If there are fewer than two levels.
    """

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = self.parameters_per_dim = integer_at_least("levels", levels, 2)

    def distribution(self, parameters: Tensor) -> Any:
        """Return the categorical over grey levels for logits (..., *x_shape, n)."""
        return GridCategorical(parameters)


@configurable
class OneHot(Likelihood):
    """p(x = e_k) = softmax(h)_k for x in {e_1, ..., e_C}, unit vectors along its last dimension: labels as numbers."""

    def distribution(self, parameters: Tensor) -> Any:
        """Return the categorical over unit vectors for logits (..., C, 1)."""
        return dist.OneHotCategorical(logits=parameters.squeeze(-1))


@configurable
class DiscretizedLogistic(Likelihood):
    """A logistic with mean h and log scale from h', binned to n grey levels (Salimans et al. 2017, no mixture).

    The scale stays above a fiftieth of a bin, f, softly: log s = log f + softplus(h' - log f). A logistic of that
    width has all but 1e-10 of its mass in the bin it is centred on; narrower ones would only make gradients larger.

    Parameters
    ----------
    levels : int
        n, at least 2; 256 for bytes.

    Raises
    ------
    InputError
        If there are fewer than two levels.
    """

    parameters_per_dim = 2

    def __init__(self, levels: int = 256) -> None:
        super().__init__()
        self.levels = integer_at_least("levels", levels, 2)
        self.log_floor = -math.log(50 * (self.levels - 1))

    def distribution(self, parameters: Tensor) -> Any:
        """Return the discretised logistic for (..., *x_shape, 2): location, then log scale above its floor."""
        loc, raw_log_scale = parameters.unbind(-1)
        log_scale = self.log_floor + F.softplus(raw_log_scale - self.log_floor)
        return DiscretizedLogisticDistribution(loc, log_scale, self.levels)
