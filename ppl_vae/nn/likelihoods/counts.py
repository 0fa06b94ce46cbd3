"""Likelihoods of counts, x in {0, 1, 2, …}: a network's output is the logarithm of a rate, which depends on the datum.

A count that is gathered over an exposure e (of time, of area, the size of a library of reads) has the mean e exp(h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae.core.checks import positive
from ppl_vae.core.config import configurable
from ppl_vae.core.errors import unknown_name
from ppl_vae.core.shapes import as_widths
from ppl_vae.nn.distributions.counts import LEAST_DISPERSION, LogNegativeBinomial, LogPoisson
from ppl_vae.nn.likelihoods.base import Likelihood


@configurable
class Poisson(Likelihood):
    """Poisson of rate exp(h): the variance of a count is its mean."""

    def distribution(self, parameters: Tensor) -> Any:
        """Return Poisson by log rates (..., *x_shape, 1)."""
        return LogPoisson(parameters.squeeze(-1))


@configurable
class NegativeBinomial(Likelihood):
    """Negative binomial of mean m = exp(h) and variance m + a m^2, its overdispersion a fixed, learned, or decoded.

    A Poisson whose rate given z has a Gamma distribution of mean m and shape 1/a; the Poisson is a = 0
    (Lopez et al. 2018, with 1/a for their theta).

    Parameters
    ----------
    dispersion : float or {"learned", "decoder"}
        A number fixes a. ``"learned"`` is one a for all coordinates, or for each (see `shape`), a parameter of this
        module. ``"decoder"`` is one per coordinate and datum, from the second half of the decoder's output, log a
        above a floor of a = 1e-6.
    initial_dispersion : float
        Initial value of a learned a.
    shape : tuple of int
        Of a learned a: one for all coordinates, or x_shape for one each.

    Raises
    ------
    InputError
        If a dispersion is not above zero, or its name unknown.
    """

    def __init__(
        self, dispersion: float | str = "learned", *, initial_dispersion: float = 0.5, shape: Sequence[int] = ()
    ) -> None:
        super().__init__()
        initial_dispersion = positive("initial_dispersion", initial_dispersion)
        if isinstance(dispersion, str) and dispersion not in ("learned", "decoder"):
            raise unknown_name("dispersion of NegativeBinomial", dispersion, ("learned", "decoder"))
        self.dispersion = dispersion if isinstance(dispersion, str) else positive("dispersion", dispersion)
        if dispersion == "decoder":
            self.parameters_per_dim = 2
        elif dispersion == "learned":
            self.log_dispersion = nn.Parameter(torch.full(as_widths("shape", shape), initial_dispersion).log())
        else:
            self.register_buffer("log_dispersion", torch.tensor(self.dispersion).log(), persistent=False)

    def distribution(self, parameters: Tensor) -> Any:
        """Return the negative binomial for (..., *x_shape, P): log mean, then, where P = 2, log a above its floor."""
        if self.dispersion == "decoder":
            log_mean, raw = parameters.unbind(-1)
            return LogNegativeBinomial(log_mean, LEAST_DISPERSION + F.softplus(raw - LEAST_DISPERSION))
        return LogNegativeBinomial(parameters.squeeze(-1), self.log_dispersion)
